"""Vision towers that LLaVA takes beside CLIP's: where their layers lie, and how they are built."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from .form import CLIP_LAYER, STREAM_LAYER, Family, LayerTaps, Tap
from .infer import unseen

SCALED_LAYER: LayerTaps = {
    "hook_resid_pre": Tap("", "input"),
    "hook_attn_out": Tap("layer_scale1", "output"),
    "mlp.hook_post": Tap("mlp.fc2", "input"),
    "hook_mlp_out": Tap("layer_scale2", "output"),
    "hook_resid_post": Tap("", "output"),
}
"""A vision layer that scales what attention and MLP add, by channel: DINOv2's."""

PLACES: Final = ("encoder.layers", "encoder.layer", "layers", "model.layer", "model.layers")
"""Where the layers of a tower of patches of one size lie, below the tower."""
FREE: Final = ("clip_vision_model", "siglip_vision_model", "dinov2", "dinov2_with_registers")
"""Towers whose layers take any number of tokens: no positions, windows or masks of their own."""
_TOWER: Final = "model.vision_tower"
NEURONS: Final = "mlp.hook_post"


def with_tower(family: Family, modules: Mapping[str, Any]) -> Family | None:
    """A family whose models may have other towers, with that of this model.

    Of layers built like CLIP's or DINOv2's all hook points are offered, of others the residual
    stream and the neurons of an MLP; of stages that merge patches, none.

    **Returns:** None for a tower that is not known.
    """
    for place in PLACES:
        path = f"{_TOWER}.{place}"
        if f"{path}.0.blocks" in modules:
            refused = unseen({"vision layers": None, "projector": family.projector})
            return replace(family, vision_layers="", refused=refused)
        if f"{path}.0" in modules:
            taps = _taps(modules, f"{path}.0")
            same = path == family.vision_layers and taps == family.vision_taps
            return family if same else replace(family, vision_layers=path, vision_taps=taps)
    return None


def _taps(modules: Mapping[str, Any], layer: str) -> LayerTaps:
    built = {f"{layer}.self_attn", f"{layer}.mlp"} <= modules.keys()
    taps = CLIP_LAYER if built else STREAM_LAYER
    if {f"{layer}.layer_scale1", f"{layer}.layer_scale2"} <= modules.keys():
        taps = SCALED_LAYER
    # The last linear map of an MLP takes its neurons.
    ends = [end for end in ("mlp.fc2", "mlp.down_proj") if f"{layer}.{end}" in modules]
    return {**taps, NEURONS: Tap(ends[0], "input")} if ends else taps


def layers_read(config: Any, n_layers: int) -> int:
    """How many layers of a tower reach the projector: LLaVA reads the one before the last."""
    names = ("vision_feature_layers", "vision_feature_layer")
    said = next((at for name in names if (at := getattr(config, name, None)) is not None), -1)
    places = [said] if isinstance(said, int) else said
    return max(at if at >= 0 else n_layers + 1 + at for at in places)


def why_no_register(config: Any, family: Family) -> str:
    """Why no token can be added behind the patches of a tower; empty if one can.

    One can where the tower's layers take any number of tokens, and the projector the patches as
    they come, so that the token can be taken away before it.
    """
    kind = getattr(getattr(config, "vision_config", None), "model_type", "no vision encoder")
    if family.inferred or kind not in FREE:
        return (
            f"{kind} in {family.name} may have positions, windows or masks for its own number of "
            f"patches, or reorder them before the projector. It is known of {', '.join(FREE)}"
        )
    return ""
