"""Attribution patching: gradients as the fast estimate of activation patching."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ..edits.source import Source, taken
from ..errors import InputError, NotationError
from ..graph import EditGraph, Layers, find_hook, resolve_layers, short_name, split_hook
from ..model import LMM, Tick
from ..probes import Activation, Gradient
from ..results.result import Result
from ..storage import Log
from ..tokens import TokenLayout
from .patch_pair import (
    HEADED,
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
from .steps import taken as steps_taken


@final
@dataclass(frozen=True, eq=False, repr=False)
class AttributionSweep(Result):
    """What gradients say of every patch, beside what some of the patches do.

    **Attributes:**

    - `estimate`: the logit difference with a patch, as its gradient foretells it.
    - `exact`: the same from the patched run; NaN where it was not run.
    - `clean`, `corrupted`: the difference in each run without a patch.
    - `token`, `against`, `hook`, `by`, `places`, `names`, `layers`, `sizes`: as in `PatchSweep`.
    """

    figure: ClassVar[str] = "attribution_patching"
    measured: ClassVar[tuple[str, ...]] = (
        "estimate", "exact", "recovered", "correlation", "rank_correlation", "clean", "corrupted",
    )  # fmt: skip

    estimate: Float[np.ndarray, "layer place"]
    exact: Float[np.ndarray, "layer place"]
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

    @property
    def recovered(self) -> Float[np.ndarray, "layer place"]:
        """The share of the difference that is recovered, estimated: 0 as corrupted, 1 as clean."""
        return (self.estimate - self.corrupted) / (self.clean - self.corrupted)

    @property
    def pairs(self) -> Float[np.ndarray, "patch 2"]:
        """Estimate and exact value of every patch that was run."""
        run = ~np.isnan(self.exact)
        return np.stack([self.estimate[run], self.exact[run]], 1)

    @property
    def correlation(self) -> float:
        """The Pearson correlation of estimate and exact value, over the patches that were run.

        NaN for fewer than three, or where one of them does not vary.
        """
        return _correlation(*self.pairs.T)

    @property
    def rank_correlation(self) -> float:
        """The same of their ranks (Spearman), which a few large entries do not decide."""
        from scipy.stats import rankdata

        return _correlation(*(rankdata(values) for values in self.pairs.T))

    def __str__(self) -> str:
        """How far the estimate is to be trusted, in one line."""
        return (
            f"{self.estimate.size} patches of {self.hook} estimated, {len(self.pairs)} of them "
            f"run: correlation {self.correlation:.2f}, of ranks {self.rank_correlation:.2f}"
        )


@with_provenance
def attribution_patching(
    lmm: LMM,
    clean: ImagePrompt,
    corrupted: ImagePrompt,
    token: str | int | None = None,
    against: str | int | None = None,
    *,
    by: By = "position",
    hook: str | None = None,
    segments: Sequence[str] | None = None,
    rows: str = "prompt",
    layers: Layers | None = None,
    check: int | None = 32,
    seed: int = 0,
    log: Log = None,
    tick: Tick | None = None,
) -> AttributionSweep:
    """Estimate every entry of `patching` from one gradient, and run some of them to see how well.

    Attribution patching (Nanda 2023; Syed et al. 2023, arXiv 2310.10348): a patch changes the logit
    difference by about the gradient at the corrupted activation times the difference of the two
    activations. Three passes give all layers and places. The estimate is of first order, and bad
    where the model is far from linear, as at early layers of the residual stream or at saturated
    softmaxes; so patches are drawn at random and run, and their correlation with the estimate is in
    the result and in its figure.

    ```python
    clean, corrupted = ((one, "what color is the circle?") for one in (image, other))
    found = ex.attribution_patching(lmm, clean, corrupted, hook="hook_mlp_out", check=8)
    print(found, found.correlation)
    ```

    **Arguments:**

    - `clean`, `corrupted`, `token`, `against`, `segments`, `rows`, `layers`: as in `patching`.
    - `by`: `"position"`, `"segment"` or `"head"`.
    - `hook`: a hook point with one row per token; by default as in `patching`. By head also
        `"attn.hook_pattern"`.
    - `check`: how many patches are run, drawn at random; None runs every one.
    - `seed`: which are drawn.
    - `log`: a JSONL file to which the difference of every patch that is run is written; an
        interrupted check continues from it.
    - `tick`: called in the place of a progress bar, after every patch that is run.

    **Returns:** an `AttributionSweep`; its `plot()` shows the estimate and its check.

    **Raises:** as `patching`; `NotationError` for attention scores, which are infinite where a key
    is hidden; `InputError` for a number of checks below zero.
    """
    hook = hook or ("attn.hook_z" if by == "head" else "hook_resid_pre")
    refuse_odd(by, hook, segments, rows)
    offered, hook = lmm.layers_with(hook), short_name(split_hook(hook)[0])
    if hook == "attn.hook_attn_scores":
        raise NotationError(f"{hook!r}: minus infinity where a key is hidden; take the pattern")
    if check is not None and check < 0:
        raise InputError(f"check={check}: a number of patches to run, or None for all")
    layers = offered if layers is None else resolve_layers(layers, lmm.n_layers)
    pair = Pair.of(lmm, clean, corrupted, (token, against), Activation(hook, layers=layers))
    places = places_of(pair, by, segments, rows)
    estimate = pair.ends[1] + _effects(pair, hook, layers, by, places, rows)
    cells = _drawn(estimate.shape, check, seed)
    given = {"by": by, "hook": hook, "rows": rows, "tokens": pair.ids}
    about = dependence(
        "attribution_patching", lmm, needs_sinks=False, clean=clean, corrupted=corrupted, **given
    )

    def step(i: int, j: int) -> Callable[[], float]:
        patch = patch_at(by, hook, pair.source, (layers[i],), places[j], rows)
        return lambda: pair.difference(lmm.run(pair.encoding, graph=patch))

    exact = np.full(estimate.shape, np.nan)
    steps = ((f"layer {layers[i]}, {places[j]}", step(i, j)) for i, j in cells)
    run = steps_taken(steps, len(cells), about, log=log, tick=tick, what="patches")
    for (i, j), difference in zip(cells, run, strict=True):
        exact[i, j] = difference
    names = tuple(name_of(pair, by, place) for place in places)
    sizes = tuple(size_of(pair.encoding, by, place, rows) for place in places)
    return AttributionSweep(
        estimate, exact, *pair.ends, *pair.words, hook, by, places, names, layers, sizes
    )


def _effects(
    pair: Pair, hook: str, layers: tuple[int, ...], by: By, places: tuple[str | int, ...], rows: str
) -> Float[np.ndarray, "layer place"]:
    """Gradient times difference, summed over what each patch would change."""
    one, other = pair.ids
    value = Activation(hook, layers=layers)
    slope = Gradient(hook, of=f"logit of {one} - {other} at last", layers=layers)
    run = pair.lmm.run(pair.encoding, graph=EditGraph(value, slope))
    source = taken(find_hook(hook), pair.source)
    layout = run.layout
    # So that prompts of unlike lengths are refused as a patch refuses them.
    for place in places if by == "segment" else (rows,):
        source.check(layout, str(place), layout.mask(str(place)))
    found = []
    for at, own, grad in zip(layers, run[value].values, run[slope].values, strict=True):
        product = (grad.double() * (_aligned(source, own, at, layout) - own.double())).nan_to_num()
        found.append(_by_place(product[0], find_hook(hook).axes[1:], layout, by, places, rows))
    return np.array(found)


def _aligned(source: Source, like: Tensor, layer: int, layout: TokenLayout) -> Tensor:
    """The clean values, each where the matching token of the corrupted prompt is."""
    tokens = source.counterparts(layout)
    new = source.picked(like, layer, source.recorded_rows(tokens))
    if source.point.axes[-1] == "key":
        new = new.take_along_dim(tokens.clamp_min(0)[:, None, None], 3)
    return new.double()


def _by_place(
    product: Tensor,
    axes: tuple[str, ...],
    layout: TokenLayout,
    by: By,
    places: tuple[str | int, ...],
    rows: str,
) -> list[float]:
    """The products summed over every place."""
    head = next((i for i, axis in enumerate(axes) if axis in HEADED), None)
    keep = {axes.index("query"), *([head] if by == "head" and head is not None else [])}
    sums = product.sum([i for i in range(product.ndim) if i not in keep])
    if by == "head" and axes.index("query") > (head or 0):
        sums = sums.T
    if by == "head":  # query head
        return sums[layout.mask(rows)[0]].sum(0).tolist()
    if by == "segment":
        return [float(sums[layout.mask(str(place))[0]].sum()) for place in places]
    return [float(sums[int(place)]) for place in places]


def _drawn(shape: tuple[int, ...], count: int | None, seed: int) -> list[tuple[int, int]]:
    """The entries that are run, in order."""
    size = int(np.prod(shape))
    chosen = np.random.default_rng(seed).permutation(size)[:count]
    rows, columns = np.unravel_index(np.sort(chosen), shape)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def _correlation(one: Float[np.ndarray, " patch"], other: Float[np.ndarray, " patch"]) -> float:
    if len(one) < 3 or one.std() == 0 or other.std() == 0:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])
