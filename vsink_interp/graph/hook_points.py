"""The hook points: one table of names, axes and forward order, and the layer notation.

Names and axes are TransformerLens's, so hook functions and habits carry over. The table drives
execution order, shape checks, the documentation page and the load-time self-check.
"""

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias, final

from ..errors import NotationError, unknown

Layers: TypeAlias = str | int | tuple[int, ...]
"""Which layers: `":"`, `"12:"`, `"-4:"`, `"4:20"`, `"except 4:20"`, `"0,3,7"`, `5`, `(0, 3)`."""

Stack: TypeAlias = Literal["blocks", "vision_encoder.blocks"]


@final
@dataclass(frozen=True)
class HookPoint:
    """A named place in the forward pass.

    **Attributes:**

    - `name`: without the layer, as in `attn.hook_pattern`.
    - `axes`: the axes of its value, outermost first.
    - `stack`: the layers that it repeats over, or None if there is one in the model.
    - `computed`: it lives inside the attention computation, and exists only while it is asked for.
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
    _row("hook_embed", _RESID, "token embeddings; placeholders at image tokens", stack=None),
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
        "image tokens as the decoder gets them",
        stack=None,
        phases=("prefill",),
    ),
    _row("hook_resid_pre", _RESID, "residual stream entering the layer"),
    _row(
        "attn.hook_q",
        "batch query head d_head",
        "queries as they are projected: before their norm, where there is one",
    ),
    _row(
        "attn.q_norm.hook_out",
        "batch query head d_head",
        "queries behind their norm, before the rotary embedding",
    ),
    _row(
        "attn.hook_k",
        "batch query kv_head d_head",
        "keys as they are projected: before their norm, where there is one",
    ),
    _row(
        "attn.k_norm.hook_out",
        "batch query kv_head d_head",
        "keys behind their norm, before the rotary embedding",
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
        "attention pattern: after the softmax, before it weighs the values",
        computed=True,
    ),
    _row(
        "attn.hook_z",
        "batch query head d_head",
        "pattern-weighted values of each head, behind the gate of heads where there is one",
        computed=True,
    ),
    _row(
        "attn.hook_result",
        "batch query head d_model",
        "what each head adds to the residual; before the norm where attention has one",
    ),
    _row(
        "hook_attn_out",
        _RESID,
        "what attention adds to the residual stream, its norm included where it has one",
    ),
    _row("hook_resid_mid", _RESID, "residual stream between attention and MLP"),
    _row("mlp.hook_pre", "batch query d_mlp", "gate of the MLP before the activation"),
    _row("mlp.hook_post", "batch query d_mlp", "hidden layer of the MLP, gated"),
    _row(
        "hook_mlp_out",
        _RESID,
        "what the MLP adds to the residual stream, its norm included where it has one",
    ),
    _row("hook_resid_post", _RESID, "residual stream leaving the layer"),
    _row(
        "ln_final.hook_out",
        _RESID,
        "residual stream after the final norm, its learned gain included",
        stack=None,
    ),
    _row("unembed.hook_out", "batch query vocab", "logits", stack=None),
)
"""Every hook point, in forward order."""

CACHE = HookPoint(
    "cache", ("batch", "key", "kv_head", "d_head"), "keys and values that the prefill leaves behind"
)
"""Where `DropKeys` acts: no hook point of the forward pass, but the cache between two of them."""

ORDER: dict[str, int] = {point.template: i for i, point in enumerate((*HOOKS, CACHE))}
_BY_NAME: dict[str, HookPoint] = {
    name: point
    for point in reversed(HOOKS)
    for name in (point.template, point.name)
    if name == point.template or point.stack != _TOWER
}
_FIRST: dict[Stack | None, int] = {point.stack: i for i, point in reversed([*enumerate(HOOKS)])}


def forward_order(template: str, layer: int | None) -> tuple[int, int, int]:
    """A key that sorts places into the order in which a forward pass reaches them."""
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

    **Raises:** `NotationError` if the name is unknown, or lacks the layer that it needs.
    """
    if match := _BLOCK.match(name):
        return find_hook(f"{match['stack']}.{{layer}}.{match['name']}"), int(match["layer"])
    point = find_hook(name)
    if point.stack is not None:
        raise NotationError(f"{name!r} needs its layer, as in {point.at(0)!r}")
    return point, None


_RANGE = re.compile(r"^(-?\d+)?(?:(:)(-?\d+)?)?$")


def _span(text: str, whole: str) -> tuple[int | None, bool, int | None]:
    match = _RANGE.match(text.strip())
    if not match or not text.strip():
        raise NotationError(
            f"{whole!r} is not a layer range; write ':', '12:', '-4:', '4:20', 'except 4:20', "
            "'0,3,7', a number or a tuple of numbers"
        )
    first, colon, last = match.groups()
    return (int(first) if first else None), bool(colon), (int(last) if last else None)


def check_layers(layers: Layers) -> None:
    """Refuse a layer range that cannot be read.

    **Raises:** `NotationError` with the legal forms.
    """
    if isinstance(layers, str):
        for part in layers.removeprefix("except ").split(","):
            _span(part, layers)
        return
    numbers = layers if isinstance(layers, tuple) else (layers,)
    # True and False are whole numbers to Python.
    if not all(type(layer) is int for layer in numbers):
        raise NotationError(
            f"{layers!r} is not a layer range: text such as '12:', a whole number, or a tuple "
            "of them"
        )


def resolve_layers(layers: Layers, n_layers: int) -> tuple[int, ...]:
    """The layers that a layer range names in a model of `n_layers` layers, ascending.

    **Raises:** `NotationError` if a bound lies outside the model, or no layer is named.
    """
    check_layers(layers)
    if isinstance(layers, str):
        parts = layers.removeprefix("except ").split(",")
        chosen = {layer for part in parts for layer in _expand(part, layers, n_layers)}
        if layers.startswith("except "):
            chosen = set(range(n_layers)) - chosen
    else:
        wanted = (layers,) if isinstance(layers, int) else layers
        chosen = {_index(layer, layers, n_layers) for layer in wanted}
    if not chosen:
        raise NotationError(
            f"layers {layers!r} name no layer; this model has {n_layers}, 0 to {n_layers - 1}"
        )
    return tuple(sorted(chosen))


def _index(layer: int, layers: Layers, n_layers: int) -> int:
    if not -n_layers <= layer < n_layers:
        raise NotationError(
            f"layers {layers!r}: there is no layer {layer}; this model has {n_layers}, 0 to "
            f"{n_layers - 1}"
        )
    return layer % n_layers


def _expand(part: str, layers: Layers, n_layers: int) -> range:
    first, colon, last = _span(part, str(layers))
    if not colon:
        only = _index(first if first is not None else 0, layers, n_layers)
        return range(only, only + 1)
    start = 0 if first is None else _index(first, layers, n_layers)
    if last is None:
        return range(start, n_layers)
    stop = last + n_layers if last < 0 else last
    if not 0 <= stop <= n_layers:
        raise NotationError(f"layers {layers!r}: layer {last} lies beyond this model's {n_layers}")
    return range(start, stop)
