"""The default layers of figures, scaled from those that the papers name for 32 layers."""

from collections.abc import Iterable

from ..graph import Layers, resolve_layers
from ..model import LMM
from ..probes import Pattern


def middle_layers(n_layers: int) -> tuple[int, ...]:
    """The layers from a quarter of the depth to the last but one, where sinks have formed.

    ```python
    ex.middle_layers(32)                                          # (8, 9, ..., 30)
    ```
    """
    return tuple(range(n_layers // 4, max(n_layers - 1, n_layers // 4 + 1)))


def map_layers(n_layers: int) -> tuple[int, ...]:
    """The layers of Kang et al.'s (2025) figure 1: 10, 11 and 12 of 32, scaled to the depth.

    ```python
    vi.probes.AttentionMaps(layers=ex.map_layers(lmm.n_layers))
    ```
    """
    first, last = round(n_layers * 10 / 32), round(n_layers * 12 / 32)
    return tuple(range(first, last + 1))


def sweep_layers(n_layers: int, most: int = 10) -> tuple[int, ...]:
    """The first layers of a knockout sweep: all layers, or `most` evenly spread ones.

    ```python
    ex.sweep_layers(32, most=4)                                   # (0, 10, 21, 31)
    ```
    """
    count = min(n_layers, most)
    return tuple(sorted({round(i * (n_layers - 1) / max(count - 1, 1)) for i in range(count)}))


def pattern_layers(lmm: LMM, within: Layers = ":") -> Layers:
    """The layers of a range that have a pattern, as the `layers` argument of a node.

    The range itself if all have one; single layers in models that mix kinds of attention.

    ```python
    vi.Knockout("image -> query", ex.pattern_layers(lmm, "2:6"))  # also where layers are mixed
    ```
    """
    found = lmm.layers_with(Pattern.hook)
    if len(found) == lmm.n_layers:
        return within
    return tuple(layer for layer in resolve_layers(within, lmm.n_layers) if layer in found)


def with_pattern(lmm: LMM, layers: Iterable[int]) -> tuple[int, ...]:
    """Those of the given layers that have a pattern or, if none does, the nearest that has."""
    found, wanted = lmm.layers_with(Pattern.hook), tuple(layers)
    kept = tuple(layer for layer in wanted if layer in found)
    return kept or (min(found, key=lambda layer: min(abs(layer - one) for one in wanted)),)


def chosen_layers(lmm: LMM, layers: Layers | None, otherwise: Iterable[int]) -> tuple[int, ...]:
    """The layers that a caller names in any notation; others, if they have a pattern, by default.

    **Raises:** `NotationError` for layers that cannot be read or are not there.
    """
    if layers is None:
        return with_pattern(lmm, otherwise)
    return resolve_layers(layers, lmm.n_layers)
