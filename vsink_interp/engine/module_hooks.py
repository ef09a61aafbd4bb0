"""Read and write hook points that are inputs or outputs of modules, through nnsight's envoys."""

from typing import Any

from einops import parse_shape, rearrange
from greenlet import getcurrent
from torch import Tensor

from ..errors import CapabilityError, InputError, NotationError
from ..families import Tap
from ..graph import parse_hook
from ..kernels import head_result
from .hooked_model import HookedModel
from .linear_map import Asked


def inside_trace() -> bool:
    """Whether this code runs as an intervention inside an nnsight trace."""
    return getattr(getcurrent(), "mediator", None) is not None


def refuse_replaced(hooked: HookedModel, path: str) -> None:
    """Refuse a module that stands elsewhere, or is another, than when the model was opened.

    nnsight would go on watching the old one, which an adapter may still call inside the new one.

    **Raises:** `CapabilityError` naming it.
    """
    try:
        now = hooked.hf_model.get_submodule(path)
    except AttributeError:
        now = None
    if now is not hooked.envoy(path)._module:
        raise CapabilityError(
            f"{path} is not the module that it was when the model was opened (an adapter or "
            "another layer was put in its place); open the model anew: LMM(hf_model, processor)"
        )


def read(tap: Tap, envoy: Any, hooked: HookedModel, asked: Asked) -> Tensor:
    """The value of a tap, inside a trace, in the axes of its hook point."""
    value = _held(tap, envoy, hooked, asked)
    return value if tap.scale == 1.0 else value * tap.scale


def _held(tap: Tap, envoy: Any, hooked: HookedModel, asked: Asked) -> Tensor:
    """As `read`, as its module holds it."""
    if tap.side == "first output":
        return envoy.output[0]
    value = envoy.output if tap.side == "output" else envoy.input
    if not tap.held:
        return value
    sizes = {"h": hooked.n_heads[tap.heads]} if tap.heads and "(h" in tap.held else {}
    shown = rearrange(value, f"{tap.held} -> {tap.shown}", **sizes)
    if tap.side == "head results":
        found = hooked.linear_map(envoy._module, value.shape[-1], value, asked)
        return head_result(shown, found.by_head(hooked.n_heads["head"]))
    return shown


def sum_beside(
    tap: Tap, envoy: Any, value: Tensor, asked: Asked, *, always: bool = False
) -> Tensor | None:
    """What heads add up to, where the module's output is known to lie beside it by rounding."""
    if tap.side != "head results" or not (always or envoy._module in asked):
        return None
    return value.sum(-2)


def write(tap: Tap, envoy: Any, old: Tensor, new: Tensor, beside: Tensor | None = None) -> None:
    """Replace the value that `read` returned.

    **Arguments:**

    - `beside`: that of `sum_beside` for the old value; its distance from the output stays.
    """
    if tap.scale != 1.0:
        new = new / tap.scale
        beside = None if beside is None else beside / tap.scale
    if tap.side == "first output":
        envoy.output = (new, *envoy.output[1:])
    elif tap.side == "residual input":
        old.copy_(new)
    elif beside is not None:
        envoy.output = envoy.output + (new.sum(-2) - beside)
    elif tap.side == "head results":
        bias = envoy._module.bias
        envoy.output = new.sum(-2) if bias is None else new.sum(-2) + bias
    else:
        flat = new
        if tap.held:
            raw = envoy.output if tap.side == "output" else envoy.input
            sizes = parse_shape(raw, tap.held) if "(" in tap.shown else {}
            flat = rearrange(new, f"{tap.shown} -> {tap.held}", **sizes)
        if tap.side == "output":
            envoy.output = flat
        else:
            envoy.input = flat


def live(hooked: HookedModel, name: str) -> Tensor:
    """The value of a hook point inside a trace, as nnsight gives it (for `LMM.hook`)."""
    point, layer = parse_hook(name)
    depth = hooked.n_layers if point.stack == "blocks" else hooked.n_vision_layers
    if layer is not None and layer >= depth:
        raise NotationError(f"{name!r}: this model has layers 0 to {depth - 1}")
    hooked.require(point, layer)
    if not inside_trace():
        raise InputError(f"{name!r} has a value only inside `with lmm.trace(image, prompt):`")
    if hooked.computes(point, layer):
        envoy: Any = hooked.points[layer or 0][point.name]
        return envoy.output
    tap = hooked.family.tap(point.template, layer)
    if tap.side == "head results" or tap.scale != 1.0:
        raise CapabilityError(
            f"{name!r} is computed on demand, so writing it in place would be lost; use "
            f"Fn({point.name!r}, function) or probes.Activation({point.name!r}) in run()"
        )
    refuse_replaced(hooked, tap.module)
    module = hooked.envoy(tap.module)
    value = read(tap, module, hooked, {})
    if tap.held and value.requires_grad:
        # The model goes on with this very view, so that gradients come by it.
        write(tap, module, value, value)
    return value
