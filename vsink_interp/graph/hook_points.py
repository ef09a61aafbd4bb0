"""The hook points: one table of names, axes and forward order.

Names and axes are TransformerLens's, so hook functions and habits carry over. The table drives
execution order, shape checks, the documentation page and the load-time self-check.
"""

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias, final

from ..errors import NotationError, unknown

Stack: TypeAlias = Literal["blocks", "vision_encoder.blocks"]


@final
@dataclass(frozen=True)
class HookPoint:
    """A named place in the forward pass.

    **Attributes:**

    - `name`: without the layer, as in `attn.hook_pattern`.
    - `axes`: the axes of its value, outermost first.
    - `stack`: the stack of layers that it repeats over; None if it occurs once in the model.
    - `computed`: it lies inside attention, and is computed only for the rows asked for.
    - `phases`: the forward passes in which it occurs.
    - `doc`: one line of explanation.
    """

    name: str
    axes: tuple[str, ...]
    doc: str
    stack: Stack | None = "blocks"
    computed: bool = False
    phases: tuple[str, ...] = ("prefill", "decode")

    @property
    def template(self) -> str:
        """The full name, with `{layer}` for the layer."""
        return self.name if self.stack is None else f"{self.stack}.{{layer}}.{self.name}"

    def at(self, layer: int | None) -> str:
        """The full name at one layer."""
        return self.template.format(layer=layer)


def _row(name: str, axes: str, doc: str, **more: object) -> HookPoint:
    return HookPoint(name, tuple(axes.split()), doc, **more)  # ty: ignore[invalid-argument-type]


_RESID = "batch query d_model"
_VISION = "image patch d_vision"
_TOWER: Stack = "vision_encoder.blocks"

HOOKS: tuple[HookPoint, ...] = (
    _row("hook_embed", _RESID, "token embeddings; the placeholder's at image tokens", stack=None),
    _row(
        "hook_resid_pre",
        _VISION,
        "vision residual stream entering a layer",
        stack=_TOWER,
        phases=("prefill",),
    ),
    _row(
        "hook_attn_out",
        _VISION,
        "what a vision layer's attention adds",
        stack=_TOWER,
        phases=("prefill",),
    ),
    _row(
        "mlp.hook_post",
        "image patch d_mlp",
        "neurons of a vision layer's MLP: after the activation, gated where it is",
        stack=_TOWER,
        phases=("prefill",),
    ),
    _row(
        "hook_mlp_out", _VISION, "what a vision layer's MLP adds", stack=_TOWER, phases=("prefill",)
    ),
    _row(
        "hook_resid_post",
        _VISION,
        "vision residual stream leaving a layer",
        stack=_TOWER,
        phases=("prefill",),
    ),
    _row(
        "vision_projector.hook_in",
        _VISION,
        "vision features entering the projector",
        stack=None,
        phases=("prefill",),
    ),
    _row(
        "vision_projector.hook_out",
        "image patch d_model",
        "image tokens as they enter the decoder",
        stack=None,
        phases=("prefill",),
    ),
    _row("hook_resid_pre", _RESID, "residual stream entering the layer"),
    _row(
        "attn.hook_q",
        "batch query head d_head",
        "queries after their projection; before their norm, if there is one",
    ),
    _row(
        "attn.q_norm.hook_out",
        "batch query head d_head",
        "queries after their norm, before the rotary embedding",
    ),
    _row(
        "attn.hook_k",
        "batch query kv_head d_head",
        "keys after their projection; before their norm, if there is one",
    ),
    _row(
        "attn.k_norm.hook_out",
        "batch query kv_head d_head",
        "keys after their norm, before the rotary embedding",
    ),
    _row("attn.hook_v", "batch query kv_head d_head", "values"),
    _row(
        "attn.hook_rot_q",
        "batch query head d_head",
        "queries after the rotary embedding",
        computed=True,
    ),
    _row(
        "attn.hook_rot_k",
        "batch key kv_head d_head",
        "keys after the rotary embedding, the cached ones included",
        computed=True,
    ),
    _row(
        "attn.hook_attn_scores",
        "batch head query key",
        "masked attention scores, before the softmax",
        computed=True,
    ),
    _row(
        "attn.hook_pattern",
        "batch head query key",
        "attention pattern: after the softmax, before it weights the values",
        computed=True,
    ),
    _row(
        "attn.hook_z",
        "batch query head d_head",
        "pattern-weighted values of each head; after the heads' gate, if there is one",
        computed=True,
    ),
    _row(
        "attn.hook_result",
        "batch query head d_model",
        "what each head adds to the residual stream, before any output norm",
    ),
    _row(
        "hook_attn_out",
        _RESID,
        "what attention adds to the residual stream, output norm included",
    ),
    _row("hook_resid_mid", _RESID, "residual stream between attention and MLP"),
    _row("mlp.hook_pre", "batch query d_mlp", "gate of the MLP before the activation"),
    _row("mlp.hook_post", "batch query d_mlp", "hidden layer of the MLP, gated"),
    _row(
        "hook_mlp_out",
        _RESID,
        "what the MLP adds to the residual stream, output norm included",
    ),
    _row("hook_resid_post", _RESID, "residual stream leaving the layer"),
    _row(
        "ln_final.hook_out",
        _RESID,
        "residual stream after the final norm, its learned gain included",
        stack=None,
    ),
    _row("unembed.hook_out", "batch query vocab", "logits, before the model caps them", stack=None),
)
"""Every hook point, in forward order."""

CACHE = HookPoint(
    "cache", ("batch", "key", "kv_head", "d_head"), "keys and values that the prefill leaves behind"
)
"""Where `DropKeys` acts: not in a forward pass, but on the KV cache between two of them."""

ORDER: dict[str, int] = {point.template: i for i, point in enumerate((*HOOKS, CACHE))}
_BY_NAME: dict[str, HookPoint] = {
    name: point
    for point in reversed(HOOKS)
    for name in (point.template, point.name)
    if name == point.template or point.stack != _TOWER
}
_FIRST: dict[Stack | None, int] = {point.stack: i for i, point in reversed([*enumerate(HOOKS)])}


def forward_order(template: str, layer: int | None) -> tuple[int, int, int]:
    """A sort key: the order in which a forward pass reaches hook points."""
    order = ORDER[template]
    if layer is None:
        return order, 0, 0
    return _FIRST[find_hook(template).stack], layer, order


_BLOCK = re.compile(r"^(?P<stack>blocks|vision_encoder\.blocks)\.(?P<layer>\d+)\.(?P<name>.+)$")


def find_hook(name: str) -> HookPoint:
    """The hook point called `name`: relative (`attn.hook_pattern`) or a full template.

    **Raises:** `NotationError` listing the legal names.
    """
    if name in _BY_NAME:
        return _BY_NAME[name]
    legal = [point.name if point.stack == "blocks" else point.template for point in HOOKS]
    raise NotationError(unknown("hook point", name, legal))


def parse_hook(name: str) -> tuple[HookPoint, int | None]:
    """Split a full name such as `blocks.12.attn.hook_pattern` into hook point and layer.

    **Raises:** `NotationError` if the name is unknown, or needs a layer and has none.
    """
    if match := _BLOCK.match(name):
        return find_hook(f"{match['stack']}.{{layer}}.{match['name']}"), int(match["layer"])
    point = find_hook(name)
    if point.stack is not None:
        raise NotationError(f"{name!r} needs its layer, as in {point.at(0)!r}")
    return point, None
