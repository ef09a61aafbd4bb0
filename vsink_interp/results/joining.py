"""One record of what a probe measured pass by pass."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..graph import Probe
from .recorded import Recorded


def join(probe: Probe, pieces: Mapping[int | None, Sequence[tuple[int, Tensor]]]) -> Recorded:
    """Join the record of a probe from its pieces: per layer, the first row and value of each pass.

    Passes are joined along `query`; keys that did not exist yet in a pass are 0. A probe without a
    `query` axis gets an axis `step` if it measured in more than one pass.
    """
    layers = [layer for layer in pieces if layer is not None]
    stacked = [_join_steps(probe.axes, pieces[layer]) for layer in pieces]
    values = torch.stack(stacked) if layers else stacked[0]
    steps = next(iter(pieces.values()))
    stepped = "query" not in probe.axes and len(steps) > 1
    axes = ("layer",) * bool(layers) + ("step",) * stepped + probe.axes
    coords: dict[str, tuple] = {"layer": tuple(layers)} if layers else {}
    if "query" in probe.axes:
        place = probe.axes.index("query")
        coords["query"] = tuple(
            row for first, value in steps for row in range(first, first + value.shape[place])
        )
    return Recorded(values, axes, coords | getattr(probe, "labels", {}))


def _join_steps(axes: tuple[str, ...], steps: Sequence[tuple[int, Tensor]]) -> Tensor:
    values = [value for _, value in steps]
    if len(values) == 1:
        return values[0]
    if "key" in axes:
        place = axes.index("key")
        values = [_widen(value, place, max(v.shape[place] for v in values)) for value in values]
    if "query" not in axes:
        return torch.stack(values)
    return torch.cat(values, axes.index("query"))


def _widen(value: Tensor, place: int, size: int) -> Tensor:
    missing = list(value.shape)
    missing[place] = size - value.shape[place]
    return torch.cat([value, value.new_zeros(missing)], place)
