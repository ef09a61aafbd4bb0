"""A Hugging Face model inside nnsight, with its hook points."""

from typing import Any, final

import torch
from nnsight import TransformersModel
from nnsight.intervention.envoy import Envoy
from torch import nn

from ..errors import CapabilityError
from ..families import Family
from ..hooks import HOOKS, HookPoint

COMPUTED: tuple[HookPoint, ...] = tuple(point for point in HOOKS if point.computed)


@final
class Wrapped:
    """A model, its family's form, and nnsight's view of it.

    The hook points inside attention are identity modules of our own, envoys of nnsight's that
    stand beside the model, not in it; `AttentionBinding` sends values through them.
    """

    def __init__(self, hf_model: Any, processor: Any, family: Family) -> None:
        self.hf_model = hf_model
        self.processor = processor
        self.family = family
        # Left to itself the pipeline inside would move the model to the first accelerator.
        spread = getattr(hf_model, "hf_device_map", None) is not None
        self.nnsight = TransformersModel(
            hf_model,
            task="image-text-to-text",
            processor=processor,
            tokenizer=getattr(processor, "tokenizer", None),
            **({} if spread else {"device": hf_model.device}),
        )
        self.config = hf_model.config.get_text_config()
        self.layers = hf_model.get_submodule(family.layers)
        self.n_layers = len(self.layers)
        self.n_vision_layers = len(hf_model.get_submodule(family.vision_layers))
        self.points: tuple[dict[str, Envoy], ...] = tuple(
            {point.name: self._point(point, layer) for point in COMPUTED}
            for layer in range(self.n_layers)
        )

    def _point(self, point: HookPoint, layer: int) -> Envoy:
        return Envoy(nn.Identity(), path=point.at(layer), interleaver=self.nnsight.interleaver)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.hf_model.device

    @property
    def n_heads(self) -> dict[str, int]:
        """How many query heads and key heads a block has."""
        heads = self.config.num_attention_heads
        return {
            "head": heads,
            "kv_head": getattr(self.config, "num_key_value_heads", None) or heads,
        }

    @property
    def advertised(self) -> tuple[str, ...]:
        """The hook points that this model offers, as templates in forward order."""
        return tuple(p.template for p in HOOKS if not self.refusal(p))

    def refusal(self, point: HookPoint) -> str:
        """Why a hook point is not offered; empty if it is."""
        if point.computed:
            # A window without `layer_types` (Mistral) holds for every block.
            window = getattr(self.config, "sliding_window", None)
            plain = ["full_attention" if window is None else "sliding_attention"]
            kinds = set(getattr(self.config, "layer_types", None) or plain)
            if kinds != {"full_attention"} or getattr(self.config, "attn_logit_softcapping", None):
                return f"its blocks attend in ways that are not supported yet: {sorted(kinds)}"
            return ""
        tap = self.family.tap(point.template, 0)
        try:
            self.hf_model.get_submodule(tap.module)
        except AttributeError:
            return f"there is no module {tap.module!r}"
        return ""

    def envoy(self, path: str) -> Any:
        """nnsight's envoy of a module path."""
        return self.nnsight.get(path)

    def require(self, point: HookPoint) -> None:
        """Refuse a hook point that is not offered.

        **Raises:** `CapabilityError` naming the model, the hook point and what is offered.
        """
        if why := self.refusal(point):
            raise CapabilityError(
                f"{type(self.hf_model).__name__} does not offer {point.template!r}: {why}; it "
                f"offers: {', '.join(self.advertised)}"
            )
