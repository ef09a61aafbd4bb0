"""A Hugging Face model inside nnsight, with its hook points."""

import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from inspect import signature
from typing import Any, final

import torch
from nnsight import TransformersModel
from nnsight.intervention.envoy import Envoy
from torch import Tensor, nn

from ..errors import CapabilityError
from ..families import (
    Family,
    gates_heads,
    layer_taps_of,
    logits_scale_of,
    sight_of,
    softcap_of,
)
from ..graph import HOOKS, HookPoint, find_hook
from ..kernels import softcapped
from .layer_config import layer_kinds, per_layer, windows_of
from .linear_map import Asked, LinearMap, linear_map
from .own_attention import attention_functions
from .placement import execution_device
from .turns import OwnThread, turns_of

ATTENDING = frozenset({"full_attention", "sliding_attention"})
"""The kinds of attention that the row program can compute."""

ARMED = "vsink_interp_"
"""The prefix of the names of our attention functions, which are registered during a run."""

COMPUTED: tuple[HookPoint, ...] = tuple(point for point in HOOKS if point.computed)


@final
class HookedModel:
    """A Hugging Face model with its family's form and nnsight's wrapper.

    The hook points inside attention are identity modules of our own, kept outside the model's
    module tree; `AttentionBinding` sends values through them.
    """

    def __init__(self, hf_model: Any, processor: Any, family: Family) -> None:
        self.hf_model = hf_model
        self.processor = processor
        self.config = hf_model.config.get_text_config()
        self.layers = _layers_at(hf_model, family.layers)
        kind = self.config.model_type
        self.failed: dict[str, str] = {}
        self.unlike_heads = self.unlike_logits = ""
        self.kinds = layer_kinds(self.config, self.layers)
        self.turns = turns_of(self.layers)
        with self.turns.hold():
            self._wrap(family, kind)

    def _wrap(self, family: Family, kind: str) -> None:
        hf_model, processor = self.hf_model, self.processor
        self.tried_attention = attention_functions(self.layers, self.attention)
        self._lacking: dict[tuple[HookPoint, int | None], str] = {}
        self.family = replace(
            family,
            taps_by_layer=tuple(
                family.layer_taps or layer_taps_of(kind, layer) for layer in self.layers
            ),
            windows=windows_of(self.config, self.kinds),
            logits_scale=logits_scale_of(hf_model),
            sight=sight_of(self.config, family.sight),
        )
        # Left to itself the pipeline inside would move the model to the first accelerator.
        spread = getattr(hf_model, "hf_device_map", None) is not None
        with warnings.catch_warnings():
            # It renames what is called `output` in BERT-like parts, such as a Q-Former.
            warnings.filterwarnings("ignore", "Module .* has a submodule named")
            self.nnsight = TransformersModel(
                hf_model,
                task="image-text-to-text",
                processor=processor,
                tokenizer=getattr(processor, "tokenizer", None),
                **({} if spread else {"device": hf_model.device}),
            )
        OwnThread.of(self.nnsight.interleaver)
        if self._managed is not None:  # weights rest elsewhere than the model computes
            self.nnsight.pipeline.device = self._managed
        self.n_layers = len(self.layers)
        self.n_vision_layers = (
            len(hf_model.get_submodule(family.vision_layers)) if family.vision_layers else 0
        )
        self.points: tuple[dict[str, Envoy], ...] = tuple(
            {point.name: self._point(point, layer) for point in COMPUTED}
            for layer in range(self.n_layers)
        )

    def _point(self, point: HookPoint, layer: int) -> Envoy:
        return Envoy(nn.Identity(), path=point.at(layer), interleaver=self.nnsight.interleaver)

    @property
    def device(self) -> torch.device:
        """The device that the model computes on; the CPU for a model without weights."""
        device = self._managed or self.hf_model.device
        return torch.device("cpu") if device.type == "meta" else device

    def here(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Inputs on the device of the model; nnsight moves them to that of its first weight.

        Pixels that a processor gives in half precision (Llama 4) are of the model's precision.
        """
        half = (torch.bfloat16, torch.float16)
        return {
            name: value.to(self.device, self.hf_model.dtype if value.dtype in half else None)
            for name, value in inputs.items()
        }

    @property
    def weightless(self) -> bool:
        """Whether the model was opened without weights, to be run on a server."""
        return self._managed is None and self.hf_model.device.type == "meta"

    @property
    def _managed(self) -> torch.device | None:
        return execution_device(self.hf_model.get_input_embeddings(), self.hf_model)

    @cached_property
    def head_sizes(self) -> tuple[dict[str, int], ...]:
        """For each layer the number of query heads, that of key heads, and the width of a head."""
        heads = self.config.num_attention_heads
        keys = per_layer(self.config, "num_key_value_heads", heads, self.n_layers)
        width = self.config.hidden_size // heads
        widths = per_layer(self.config, "head_dim", width, self.n_layers)
        each = zip(keys, widths, strict=True)
        return tuple({"head": heads, "kv_head": n, "d_head": wide} for n, wide in each)

    @cached_property
    def n_heads(self) -> dict[str, int]:
        """The number of query heads and of key heads per layer; the least where layers differ."""
        return {n: min(each[n] for each in self.head_sizes) for n in ("head", "kv_head")}

    @property
    def d_head(self) -> int:
        """The width of a head.

        **Raises:** `CapabilityError` if heads of different layers have different widths (Gemma 4).
        """
        widths = {each["d_head"] for each in self.head_sizes}
        if len(widths) > 1:
            raise CapabilityError(
                f"heads of {type(self.hf_model).__name__} are {sorted(widths)} wide, each width in "
                "some of its layers, and this needs one for all; read them layer by layer, as by "
                "probes.Activation('attn.hook_z', layer)"
            )
        return widths.pop()

    @property
    def cache_bytes(self) -> tuple[int, ...]:
        """The bytes of a token's key and value in the KV cache of each layer."""
        size = self.hf_model.dtype.itemsize
        return tuple(2 * each["kv_head"] * each["d_head"] * size for each in self.head_sizes)

    @property
    def advertised(self) -> tuple[str, ...]:
        """The hook points that this model offers, as templates in forward order."""
        return tuple(p.template for p in HOOKS if not self.refusal(p))

    @cached_property
    def arguments(self) -> frozenset[str]:
        """The names of what the model's forward pass takes."""
        return frozenset(signature(self.hf_model.forward).parameters)

    @cached_property
    def learned_sinks(self) -> tuple[int, ...]:
        """The layers whose softmax has a learned sink for every head: a score that is no key's."""
        attending = [getattr(layer, "self_attn", None) for layer in self.layers]
        found = [getattr(attention, "sinks", None) is not None for attention in attending]
        return tuple(at for at, has in enumerate(found) if has)

    @cached_property
    def softcap(self) -> float | None:
        """The cap on the logits, where the model's own forward pass applies it."""
        return softcap_of(self.hf_model)

    def residual_scale(self, layer: int) -> float:
        """What a layer multiplies the output of its heads by before it adds it to the residual."""
        taps = self.family.taps_by_layer[layer]
        return taps["attn.hook_result"].scale if "attn.hook_result" in taps else 1.0

    @property
    def attention_config(self) -> Any:
        """The configuration object that selects the decoder's attention function."""
        attending = (getattr(layer, "self_attn", None) for layer in self.layers)
        found = (getattr(attention, "config", None) for attention in attending)
        return next((config for config in found if config is not None), self.config)

    @property
    def attention(self) -> str:
        """The attention function of the model itself; whoever asks has the turn.

        What a run left armed, because its own clearing up was interrupted, is put right.
        """
        config = self.attention_config
        if self.turns.attention and config._attn_implementation.startswith(ARMED):
            config._attn_implementation = self.turns.attention
        self.turns.attention = config._attn_implementation
        return self.turns.attention

    @property
    def gating(self) -> str:
        """Why pattern, values and weights do not determine what a head adds; empty if they do."""
        if self.unlike_heads:
            return self.unlike_heads
        if why := self.refusal(find_hook("attn.hook_result")):
            return f"what a head adds is not known here: {why}"
        if not any(gates_heads(layer) for layer in self.layers):
            return ""
        return (
            f"{type(self.hf_model).__name__} gates its heads after the pattern weighs the values, "
            "so pattern, values and output weights do not say what a head adds; attn.hook_result "
            "does"
        )

    def computes(self, point: HookPoint, layer: int | None) -> bool:
        """Whether a hook point is inside a layer's attention computation rather than a module."""
        return point.computed and (
            layer is None or point.name not in self.family.taps_by_layer[layer]
        )

    def offering(self, point: HookPoint) -> tuple[int, ...]:
        """The layers that offer a hook point."""
        depth = self.n_layers if point.stack == "blocks" else self.n_vision_layers
        return tuple(at for at in range(depth) if not self.refusal(point, at))

    def refusal(self, point: HookPoint, layer: int | None = None) -> str:
        """Why a hook point is not offered (at this layer, or at any); empty if it is."""
        if why := self.family.refused.get(point.template) or self.failed.get(point.template):
            return why
        depths = {None: 1, "blocks": self.n_layers}
        depth = depths.get(point.stack, self.n_vision_layers)
        layers = range(depth) if layer is None else (layer,)
        reasons = [self._known_lack(point, None if point.stack is None else at) for at in layers]
        return "" if not all(reasons) else reasons[0] if reasons else "it has no such layers"

    def _known_lack(self, point: HookPoint, layer: int | None) -> str:
        """Cached, because it is asked for in every run and never changes."""
        if (point, layer) not in self._lacking:
            self._lacking[point, layer] = self._lack(point, layer)
        return self._lacking[point, layer]

    def _lack(self, point: HookPoint, layer: int | None) -> str:
        kind = self.kinds[layer or 0] if point.stack == "blocks" else ""
        if point.name.startswith("attn.") and kind not in ATTENDING:
            return f"{kind.replace('_', ' ')} has no queries, keys and patterns of this kind"
        if self.computes(point, layer):
            capped = getattr(self.config, "attn_logit_softcapping", None)
            return "its attention caps scores softly, which is not supported yet" * bool(capped)
        try:
            self.hf_model.get_submodule(self.family.tap(point.template, layer).module)
        except KeyError:
            odd = kind and kind not in ATTENDING
            whose = f"a layer with {kind.replace('_', ' ')}" if odd else "this family"
            return f"{whose} has no such module"
        except AttributeError as error:
            return f"there is no such module: {error}"
        return ""

    def comes_early(self, template: str, *, generates: bool) -> bool:
        """Whether a hook point is reached before the text is embedded: one of images.

        `generate` encodes them first for models whose signature takes images and their encodings; a
        forward pass embeds the text first, unless images have no tokens in the prompt.
        """
        late = self.family.projects_late and template.startswith("vision_projector")
        if late or not template.startswith("vision"):
            return False
        if self.family.sight == "cross-attention":
            return True
        takes = not {"image", "video"}.isdisjoint(getattr(self.hf_model, "input_modalities", ()))
        supports = getattr(self.hf_model, "_supports_mm_encoder_outputs", bool)
        return generates and takes and bool(supports())

    def envoy(self, path: str) -> Any:
        """nnsight's envoy of a module path."""
        return self.nnsight.get(path)

    def module(self, template: str, layer: int | None = None) -> Any:
        """The module at which a hook point lies."""
        return self.hf_model.get_submodule(self.family.tap(template, layer).module)

    @contextmanager
    def unseen(self) -> Generator[None]:
        """Call modules hidden from the trace, which would think that the model had reached them."""
        interleaver = self.nnsight.interleaver
        if not interleaver.interleaving:  # else a run of another thread would be switched off
            yield
            return
        interleaver.interleaving = False
        try:
            yield
        finally:
            interleaver.interleaving = True

    def linear_map(
        self, module: nn.Module, width: int, like: Tensor, asked: Asked | None = None
    ) -> LinearMap:
        """What a linear module does to vectors of a width, also in the middle of a trace.

        **Arguments:**

        - `like`: a tensor of the precision and device in which it is given them.
        - `asked`: what modules answered before in a run, to which answers are added.

        **Raises:** `CapabilityError` if its weights are not on this machine, or it is not linear.
        """
        known = {} if asked is None else asked
        if module in known:
            return known[module]
        with self.unseen():
            found = linear_map(module, width, like)
        if not found.exact:
            known[module] = found
        return found

    def projection(self, template: str, layer: int | None, width: int) -> LinearMap:
        """What the linear module at a hook point does to vectors of a width.

        **Raises:** as `linear_map`.
        """
        like = torch.zeros(0, dtype=self.hf_model.dtype, device=self.device)
        return self.linear_map(self.module(template, layer), width, like)

    def unembed(self, resid: Tensor) -> Tensor:
        """The logits of residual vectors, as the model's own final norm and unembedding make them,
        multiplied and capped as it does.
        """
        with self.unseen():
            head = self.module("unembed.hook_out")
            # In a model spread over several devices, the head is on another one than most layers.
            resid = resid.to(next(head.parameters()).device)
            logits = head.forward(self.module("ln_final.hook_out").forward(resid))
        if self.family.logits_scale != 1.0:
            logits = logits * self.family.logits_scale
        return softcapped(logits, self.softcap)

    def require(self, point: HookPoint, layer: int | None = None) -> None:
        """Refuse a hook point that is not offered (at this layer, or at any).

        **Raises:** `CapabilityError` naming the model, the hook point and those that are offered.
        """
        why = self.refusal(point, layer)
        if not why:
            return
        name = f"{type(self.hf_model).__name__} does not offer {point.template!r}"
        if self.refusal(point):
            raise CapabilityError(f"{name}: {why}; it offers: {', '.join(self.advertised)}")
        fine = ",".join(map(str, self.offering(point)))
        raise CapabilityError(f"{name} at layer {layer}: {why}; it does at layers={fine!r}")


def _layers_at(hf_model: Any, path: str) -> Any:
    """The decoder layers.

    **Raises:** `CapabilityError` for a language model that keeps them elsewhere.
    """
    try:
        return hf_model.get_submodule(path)
    except AttributeError as error:
        kind = hf_model.config.get_text_config().model_type
        raise CapabilityError(
            f"{type(hf_model).__name__} around a language model of type {kind!r} is not supported: "
            f"there are no decoder layers at {path} ({error}). A family is one file: see "
            "docs/adding-a-family.md"
        ) from None
