"""Activation patching between two images or two prompts, by layer and segment, head or position."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float

from ..errors import InputError
from ..graph import Layers, resolve_layers, short_name, split_hook
from ..model import LMM, Tick
from ..probes import Activation
from ..results.result import Result
from ..storage import Log
from .patch_pair import (
    By,
    ImagePrompt,
    Pair,
    name_of,
    patch_at,
    places_of,
    refuse_odd,
    size_of,
)
from .provenance import dependence, with_provenance
from .steps import taken


@final
@dataclass(frozen=True, eq=False, repr=False)
class PatchSweep(Result):
    """How much of a logit difference is recovered by activations of another run.

    **Attributes:**

    - `difference`: the logit of `token` minus that of `against`, with activations of the clean run
        patched into the corrupted run at one layer and place.
    - `clean`, `corrupted`: the same difference in each run without a patch.
    - `token`, `against`: the words.
    - `hook`: the hook point.
    - `by`: what a place is: a segment, a head or a position in the prompt.
    - `places`: names of segments, numbers of heads, or positions.
    - `names`: the places as a figure names them: a position with its token.
    - `layers`: where it was patched.
    - `window`: how many layers were patched at once, about each of those.
    - `sizes`: the number of tokens that are patched at each place.
    """

    figure: ClassVar[str] = "patching"
    measured: ClassVar[tuple[str, ...]] = ("difference", "recovered", "clean", "corrupted")

    difference: Float[np.ndarray, "layer place"]
    clean: float
    corrupted: float
    token: str
    against: str
    hook: str
    by: By
    places: tuple[str | int, ...]
    names: tuple[str, ...]
    layers: tuple[int, ...]
    sizes: tuple[int, ...]
    window: int = 1

    @property
    def recovered(self) -> Float[np.ndarray, "layer place"]:
        """The share of the difference that is recovered: 0 as in the corrupted run, 1 as clean."""
        return (self.difference - self.corrupted) / (self.clean - self.corrupted)

    @property
    def segments(self) -> tuple[str, ...]:
        """The places of a sweep by segment.

        **Raises:** `InputError` for another sweep.
        """
        if self.by != "segment":
            raise InputError(f"this sweep is by {self.by}, not by segment; see its `places`")
        return tuple(map(str, self.places))


@with_provenance
def patching(
    lmm: LMM,
    clean: ImagePrompt,
    corrupted: ImagePrompt,
    token: str | int | None = None,
    against: str | int | None = None,
    *,
    by: By = "segment",
    hook: str | None = None,
    segments: Sequence[str] | None = None,
    rows: str = "prompt",
    layers: Layers | None = None,
    window: int = 1,
    log: Log = None,
    tick: Tick | None = None,
) -> PatchSweep:
    """Patch activations of a clean run into a corrupted one: one layer and one place at a time.

    Activation patching in its denoising form (Meng et al. 2022, arXiv 2202.05262; Zhang and Nanda
    2024, arXiv 2309.16042): where the clean answer is recovered, the activations that produce it
    were patched. Every entry is a run of its own, no approximation. Tokens are matched by segment
    and position, as in `edits.Patch`.

    ```python
    clean, corrupted = ((one, "what color is the circle?") for one in (image, other))
    heads = ex.patching(lmm, clean, corrupted, by="head", layers=[3, 4])     # layer x head
    stream = ex.patching(lmm, clean, corrupted, by="position", rows="last", layers=[5])
    heads.plot()
    ```

    **Arguments:**

    - `clean`, `corrupted`: image and question of each run: the same question and different images,
        or the same image and questions of equal length.
    - `token`, `against`: words of one token each; by default the model's answers to the clean and
        to the corrupted input.
    - `by`: `"segment"`, `"head"` or `"position"`. By position it takes as many runs as there are
        layers times tokens; `rows` and `layers` choose fewer.
    - `hook`: a hook point with one row per token, such as `"hook_attn_out"`; by default
        `"attn.hook_z"`, the output of every head, by head, else `"hook_resid_pre"`.
    - `segments`: groups of tokens, patched one at a time; by default the segments of the prompt.
    - `rows`: by head, the tokens at which a head is patched; by position, the tokens that are
        patched one at a time.
    - `layers`: the layers; by default all that offer the hook point.
    - `window`: patch this many layers at once, the layer in their middle: causal tracing with a
        sliding window, as Meng et al. trace MLPs and attention (10 of 48 layers there). At the
        ends of the model a window is shorter; with an even number, one more lies before.
    - `log`: a JSONL file to which the difference of every run is written; an interrupted sweep
        continues from it.
    - `tick`: called in the place of a progress bar, after every run.

    **Returns:** a `PatchSweep`; its `plot()` is the heat map.

    **Raises:** `InputError` if both inputs get the same answer, so that there is no difference to
    recover; `LayoutError` if a segment has different lengths in the two prompts; `NotationError` by
    head for a hook point without heads; `ResultError` if `log` belongs to another measurement.
    """
    hook = hook or ("attn.hook_z" if by == "head" else "hook_resid_pre")
    refuse_odd(by, hook, segments, rows)
    offered, hook = lmm.layers_with(hook), short_name(split_hook(hook)[0])
    layers = offered if layers is None else resolve_layers(layers, lmm.n_layers)
    near = {at: _window(at, window, offered) for at in layers}
    recorded = tuple(sorted({one for found in near.values() for one in found}))
    pair = Pair.of(lmm, clean, corrupted, (token, against), Activation(hook, layers=recorded))
    places = places_of(pair, by, segments, rows)
    cells = [(layer, place) for layer in layers for place in places]
    given = {"by": by, "hook": hook, "rows": rows, "tokens": pair.ids, "window": window}
    about = dependence(
        "patching", lmm, needs_sinks=False, clean=clean, corrupted=corrupted, **given
    )

    def step(layer: int, place: str | int) -> Callable[[], float]:
        patch = patch_at(by, hook, pair.source, near[layer], place, rows)
        return lambda: pair.difference(lmm.run(pair.encoding, graph=patch))

    steps = ((f"layer {layer}, {place}", step(layer, place)) for layer, place in cells)
    found = taken(steps, len(cells), about, log=log, tick=tick, what="patches")
    grid = np.array([*found]).reshape(len(layers), len(places))
    names = tuple(name_of(pair, by, place) for place in places)
    sizes = tuple(size_of(pair.encoding, by, place, rows) for place in places)
    ends, words = pair.ends, pair.words
    return PatchSweep(grid, *ends, *words, hook, by, places, names, layers, sizes, window)


def _window(layer: int, width: int, offered: tuple[int, ...]) -> tuple[int, ...]:
    """The layers of a window about one of them, of those that offer the hook point."""
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise InputError(f"window={width!r} is a number of layers, 1 or more")
    first = layer - width // 2
    return tuple(at for at in offered if first <= at < first + width)
