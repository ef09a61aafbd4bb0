"""Which layers a figure looks at, where the papers name those of a 32-layer model."""

from collections.abc import Iterable

from ..graph import Layers, resolve_layers
from ..model import LMM
from ..probes import Pattern


def middle_layers(n_layers: int) -> tuple[int, ...]:
    """The layers from a quarter of the depth to the last but one: where sinks are there to see."""
    return tuple(range(n_layers // 4, max(n_layers - 1, n_layers // 4 + 1)))


def map_layers(n_layers: int) -> tuple[int, ...]:
    """Where Kang et al. (2025) take the maps of figure 1: layers 10, 11 and 12 of 32."""
    first, last = round(n_layers * 10 / 32), round(n_layers * 12 / 32)
    return tuple(range(first, last + 1))


def sweep_layers(n_layers: int, most: int = 10) -> tuple[int, ...]:
    """The layers that a knockout sweep starts from: all of them, or `most` evenly spread."""
    count = min(n_layers, most)
    return tuple(sorted({round(i * (n_layers - 1) / max(count - 1, 1)) for i in range(count)}))


def pattern_layers(lmm: LMM, within: Layers = ":") -> Layers:
    """The layers of a range that have a pattern, as a node takes them.

    The range itself where all have one; layers one by one in models that mix kinds of attention.
    """
    found = lmm.layers_with(Pattern.hook)
    if len(found) == lmm.n_layers:
        return within
    return tuple(layer for layer in resolve_layers(within, lmm.n_layers) if layer in found)


def with_pattern(lmm: LMM, layers: Iterable[int]) -> tuple[int, ...]:
    """Those of some layers that have a pattern; the nearest layer that has one, if none does."""
    found, wanted = lmm.layers_with(Pattern.hook), tuple(layers)
    kept = tuple(layer for layer in wanted if layer in found)
    return kept or (min(found, key=lambda layer: min(abs(layer - one) for one in wanted)),)
