"""What nodes return, checked before the model or a record takes it."""

from typing import Any

from torch import Tensor

from ..errors import CapabilityError
from ..graph import Edit, Node, Probe, Site


def refuse_reshaped(node: Edit, site: Site, old: Tensor, new: Tensor) -> None:
    """Refuse a result of an edit whose shape is not that of the value.

    **Raises:** `CapabilityError` naming both shapes.
    """
    if new.shape != old.shape and not node.reshapes:
        raise CapabilityError(
            f"{node!r} turned {where(site)} from shape {tuple(old.shape)} into "
            f"{tuple(new.shape)}; an edit keeps the shape {site.hook.axes}"
        )


def checked_value(node: Edit, old: Tensor, new: Any, site: Site) -> Tensor:
    """The value that an edit returned, in the precision of the old one.

    **Raises:** `CapabilityError` if it could not stand in the place of the old one.
    """
    if type(new) is Tensor and (new.shape, new.dtype, new.device) == (
        old.shape,
        old.dtype,
        old.device,
    ):
        return new
    if not isinstance(new, Tensor):
        raise CapabilityError(
            f"{node!r} turned {where(site)} into a {type(new).__name__}; an edit returns a tensor"
        )
    refuse_reshaped(node, site, old, new)
    if new.device != old.device or new.is_floating_point() != old.is_floating_point():
        raise CapabilityError(
            f"{node!r} turned {where(site)} from {old.dtype} on {old.device} into "
            f"{new.dtype} on {new.device}; an edit keeps the device, and floats floats"
        )
    return new.to(old.dtype)


def checked_record(node: Probe, value: Tensor, measured: Any, site: Site) -> Tensor:
    """What a probe measured of a value.

    **Raises:** `CapabilityError` if it does not have the axes that the probe declares.
    """
    sizes = dict(zip(site.hook.axes, value.shape, strict=False))
    if "query" in sizes and "query" not in node.axes:
        sizes["token"] = sizes["query"]  # what is measured is each token's own
    if not isinstance(measured, Tensor):
        found = type(measured).__name__
    elif measured.ndim != len(node.axes):
        found = f"shape {tuple(measured.shape)}"
    else:
        wrong = [
            f"{axis} = {size}, not {sizes[axis]}"
            for axis, size in zip(node.axes, measured.shape, strict=True)
            if sizes.get(axis, size) != size
        ]
        if not wrong:
            return measured
        found = f"shape {tuple(measured.shape)}, with {', '.join(wrong)}"
    raise CapabilityError(
        f"probe {node!r} declares the axes {' '.join(node.axes)!r} and returned {found} at "
        f"{where(site)}"
    )


def note(error: Exception, node: Node, site: Site) -> None:
    """Say with an error inside a node which node it was, where, and in which phase."""
    error.add_note(f"raised by {node!r} at {where(site)}")


def where(site: Site) -> str:
    """The hook point, phase and rows of a site, in words."""
    phase = "the prefill" if site.prefill else "a decode step"
    return f"{site.hook.at(site.layer)} in {phase}, tokens {site.first_row} to " + str(
        site.first_row + site.n_rows - 1
    )
