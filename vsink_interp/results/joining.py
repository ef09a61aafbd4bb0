"""One record of what a probe measured pass by pass."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..errors import CapabilityError
from ..graph import Probe
from .recorded import Recorded, row_axis


def join(probe: Probe, pieces: Mapping[int | None, Sequence[tuple[int, Tensor]]]) -> Recorded:
    """Join the record of a probe from its pieces: per layer, the first row and value of each pass.

    Passes are joined along `query` or `token`; keys that did not exist yet in a pass are 0. A probe
    without such an axis gets an axis `step` if it measured in more than one pass.
    """
    layers = [layer for layer in pieces if layer is not None]
    stacked = [_join_steps(probe.axes, pieces[layer]) for layer in pieces]
    _refuse_ragged(probe, layers, stacked)
    values = torch.stack(stacked) if layers else stacked[0]
    steps = next(iter(pieces.values()))
    rows = row_axis(probe.axes)
    stepped = rows is None and len(steps) > 1
    axes = ("layer",) * bool(layers) + ("step",) * stepped + probe.axes
    coords: dict[str, tuple] = {"layer": tuple(layers)} if layers else {}
    if rows is not None:
        place = probe.axes.index(rows)
        coords[rows] = tuple(
            row for first, value in steps for row in range(first, first + value.shape[place])
        )
    return Recorded(values, axes, coords | getattr(probe, "labels", {}))


def _refuse_ragged(probe: Probe, layers: Sequence[int], values: Sequence[Tensor]) -> None:
    """Refuse one record of layers that computed different rows.

    **Raises:** `CapabilityError` naming the layers.
    """
    shapes = [tuple(value.shape) for value in values]
    if odd := [at for at, shape in zip(layers, shapes, strict=False) if shape != shapes[0]]:
        rows = row_axis(probe.axes)
        place = None if rows is None else probe.axes.index(rows)
        if place is not None and len({shape[place] for shape in shapes}) == 1:
            raise CapabilityError(
                f"{probe!r}: heads of layers {odd} differ in number or width from those of layer "
                f"{layers[0]} (Gemma 4), so one record cannot hold them; ask for them in a probe "
                "of their own"
            )
        raise CapabilityError(
            f"{probe!r}: layers {odd} computed other rows than layer {layers[0]}: where layers "
            "share the keys of earlier ones (Gemma 4), generation computes the last row of the "
            "prompt alone in them. Ask for them in a probe of their own, or use run"
        )


def _join_steps(axes: tuple[str, ...], steps: Sequence[tuple[int, Tensor]]) -> Tensor:
    values = [value for _, value in steps]
    if len(values) == 1:
        return values[0]
    if "key" in axes:
        place = axes.index("key")
        values = [_widen(value, place, max(v.shape[place] for v in values)) for value in values]
    rows = row_axis(axes)
    return torch.stack(values) if rows is None else torch.cat(values, axes.index(rows))


def _widen(value: Tensor, place: int, size: int) -> Tensor:
    missing = list(value.shape)
    missing[place] = size - value.shape[place]
    return torch.cat([value, value.new_zeros(missing)], place)
