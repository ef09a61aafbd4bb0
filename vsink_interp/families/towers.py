"""Vision towers that LLaVA takes beside CLIP's: where their layers lie, and how they are built."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from .form import CLIP_LAYER, STREAM_LAYER, Family, LayerTaps, Tap
from .infer import unseen

SCALED_LAYER: LayerTaps = {
    "hook_resid_pre": Tap("", "input"),
    "hook_attn_out": Tap("layer_scale1", "output"),
    "hook_mlp_out": Tap("layer_scale2", "output"),
    "hook_resid_post": Tap("", "output"),
}
"""A vision layer that scales what attention and MLP add, by channel: DINOv2's."""

PLACES: Final = ("encoder.layers", "encoder.layer", "layers", "model.layer", "model.layers")
"""Where the layers of a tower of patches of one size lie, below the tower."""
_TOWER: Final = "model.vision_tower"


def with_tower(family: Family, modules: Mapping[str, Any]) -> Family | None:
    """A family whose models may have other towers, with that of this model.

    Of layers built like CLIP's or DINOv2's all hook points are offered, of others the residual
    stream; of stages that merge patches, none.

    **Returns:** None for a tower that is not known.
    """
    for place in PLACES:
        path = f"{_TOWER}.{place}"
        if f"{path}.0.blocks" in modules:
            refused = unseen({"vision layers": None, "projector": family.projector})
            return replace(family, vision_layers="", refused=refused)
        if f"{path}.0" in modules:
            taps = _taps(modules, f"{path}.0")
            same = path == family.vision_layers and taps is family.vision_taps
            return family if same else replace(family, vision_layers=path, vision_taps=taps)
    return None


def _taps(modules: Mapping[str, Any], layer: str) -> LayerTaps:
    if {f"{layer}.layer_scale1", f"{layer}.layer_scale2"} <= modules.keys():
        return SCALED_LAYER
    built = {f"{layer}.self_attn", f"{layer}.mlp"} <= modules.keys()
    return CLIP_LAYER if built else STREAM_LAYER
