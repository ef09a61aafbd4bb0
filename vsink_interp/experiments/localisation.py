"""Does a word attend to the object that it names? (Kaduri et al. 2025, figures 6 and 7).

The code of this experiment was not released, and the paper leaves open how objects of several
tokens and images of several views are treated. The arguments say what is chosen here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from ..errors import InputError, LayoutError
from ..graph import Graphlike, Layers, as_graph, resolve_layers
from ..metrics import Canvas, chance, distance_to, wilson
from ..model import LMM, Tick
from ..model.progress import shown
from ..probes import Pattern
from ..results import Recorded
from ..results.result import Result
from ..storage import Log, opened_log
from .attention_peaks import DIRECT, KEYS, SharedCanvas, Way, grouped, log_about, measure
from .object_masks import ObjectMasks
from .provenance import with_provenance


@final
@dataclass(frozen=True, eq=False, repr=False)
class Localisation(Result):
    """Attention peaks of the words that name objects, layer by layer, and whether they hit.

    **Attributes:**

    - `located`: the objects that were measured.
    - `canvases`: the image of each, with the pixels that each image token covers.
    - `peaks`: column and row of the pixel with the most attention; -1 if there is no peak.
    - `keys`: the groups of image tokens that were measured.
    - `layers`: the layers.
    - `tolerance`: the largest distance from the mask, in pixels, that is still a hit; None for the
        side of one image token.
    - `given`, `named`, `direct`: the number of objects, of those that the answer names, and of
        those that need direct access to the image (None if that was not measured).
    """

    figure: ClassVar[str] = "localisation"
    measured: ClassVar[tuple[str, ...]] = ("hits", "distance", "chances")
    axis_labels: ClassVar[Mapping[str, str]] = {"keys": "keys", "object": "names"}

    located: tuple[ObjectMasks, ...]
    canvases: tuple[Canvas, ...]
    peaks: Int[np.ndarray, "keys layer object xy"]
    keys: tuple[str, ...]
    layers: tuple[int, ...]
    _: KW_ONLY
    tolerance: float | int | None = None
    given: int
    named: int
    direct: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The objects, numbered, with their words."""
        return tuple(f"{i}: {one.words}" for i, one in enumerate(self.located))

    def within(self, tolerance: float | int | None) -> "Localisation":
        """The same peaks with another tolerance."""
        return replace(self, tolerance=_checked(tolerance))

    @cached_property
    def tolerances(self) -> Float[np.ndarray, " object"]:
        """The tolerance for each object, in pixels of its image."""
        own = [canvas.token_side for canvas in self.canvases]
        return np.array(own if self.tolerance is None else [float(self.tolerance)] * len(own))

    @cached_property
    def distance(self) -> Float[np.ndarray, "keys layer object"]:
        """The distance from peak to mask in pixels: 0 on it, infinite if there is no peak."""
        found = np.empty(self.peaks.shape[:-1])
        for place in np.ndindex(found.shape):
            x, y = map(int, self.peaks[place])
            found[place] = distance_to(self.located[place[-1]].mask, (x, y) if x >= 0 else None)
        return found

    @property
    def hits(self) -> Bool[np.ndarray, "keys layer object"]:
        """Whether the peak is at most the tolerance away from the mask."""
        return self.distance <= self.tolerances

    @property
    def rate(self) -> Float[np.ndarray, "keys layer"]:
        """The share of objects that are hit."""
        return self.hits.mean(-1)

    @property
    def interval(self) -> tuple[Float[np.ndarray, "keys layer"], Float[np.ndarray, "keys layer"]]:
        """The 95% Wilson interval of the rate, which treats objects as independent."""
        return wilson(self.hits.sum(-1).astype(float), len(self.located))

    @cached_property
    def chances(self) -> Float[np.ndarray, " object"]:
        """The probability of each object that a random pixel seen by the model is a hit."""
        parts = zip(self.located, self.canvases, self.tolerances, strict=True)
        return np.array([chance(one.mask, at.seen, float(most)) for one, at, most in parts])

    @property
    def chance(self) -> float:
        """The expected hit rate of random peaks."""
        return float(self.chances.mean())

    @property
    def best(self) -> int:
        """The layer with the highest rate, for the first of `keys`."""
        return self.layers[int(self.rate[0].argmax())]

    @property
    def record(self) -> Recorded:
        """The hits, 1 or 0, as a record with named axes: `record.mean("object").to_pandas()`."""
        coords = {"keys": self.keys, "layer": self.layers}
        hits = torch.from_numpy(self.hits.astype(np.float32))
        return Recorded(hits, ("keys", "layer", "object"), coords)

    def table(self) -> str:
        """The rates and their 95 % Wilson intervals, layer by layer, and the chance level."""
        low, high = self.interval
        width = max(map(len, self.keys)) + 2
        head = "layer  " + "".join(f"{key:<{max(width, 20)}}" for key in self.keys)
        lines = [
            f"{layer:5}  "
            + "".join(
                f"{f'{self.rate[k, i]:.2f} ({low[k, i]:.2f}-{high[k, i]:.2f})':<{max(width, 20)}}"
                for k in range(len(self.keys))
            )
            for i, layer in enumerate(self.layers)
        ]
        about = f"chance {self.chance:.2f}; {self.about}"
        return "\n".join(line.rstrip() for line in (head, *lines, about))

    __str__ = table

    @property
    def about(self) -> str:
        """How many objects were measured, and what counts as a hit."""
        parts = [f"{self.named} named of {self.given}"]
        if self.direct is not None:
            parts.append(f"{self.direct} of these gone under {DIRECT.flow!r} cut")
        least, most = self.tolerances.min(), self.tolerances.max()
        pixels = f"{least:.1f}" if least == most else f"{least:.1f} to {most:.1f}"
        count = f"{len(self.located)} objects in {len(set(self.canvases))} images"
        return f"{count} ({', '.join(parts)}); within {pixels} pixels"


@with_provenance
def localisation(
    lmm: LMM,
    located: Sequence[ObjectMasks],
    *,
    layers: Layers | None = None,
    keys: str | Sequence[str] = KEYS,
    row: str = "predicts",
    tolerance: float | int | None = None,
    upsample: str = "bilinear",
    views: str = "all",
    only_direct: bool = False,
    graph: Graphlike = None,
    max_new_tokens: int = 64,
    batch_size: int = 16,
    log: Log = None,
    tick: Tick | None = None,
) -> Localisation:
    """Generate answers, and measure where attention peaks when they name an object.

    A layer's attention to the image tokens, averaged over heads and over the tokens of the object's
    name, is upsampled to the image. It is a hit if the pixel with the most attention is on the
    object's mask or at most `tolerance` away. Objects that the answer does not name are left out,
    and their number is reported.

    ```python
    found = ex.localisation(lmm, ex.ObjectMasks.scenes(1), layers=[3, 5], max_new_tokens=16)
    found.rate                                                    # by keys and layer
    ```

    **Arguments:**

    - `located`: the objects; those with the same image and prompt share an answer.
    - `layers`: the layers, counted from 0; all that have a pattern by default.
    - `keys`: `"image"` or `"image & ~sink"`; by default both, side by side. The second counts
        attention to a layer's visual sinks as 0.
    - `row`: `"predicts"` takes the row that predicts the token, as everywhere here and as in the
        attention that the paper's released code stores; `"token"` takes the token's own row, one
        later. The paper says "of the generated token". The last token is never fed back and has
        no row of its own, so with `"token"` an object at the end of the answer is not named.
    - `tolerance`: in pixels of the image; by default the side of one image token, roughly the
        paper's 40 pixels.
    - `upsample`, `views`: as in `metrics.Canvas`: how attention is upsampled, and which views of a
        tiled image count. The paper states neither.
    - `only_direct`: keep only objects that are no longer named under `Knockout("image ->
        generated")`: the paper's selection of details that need direct access to the image. Takes
        one more answer per image.
    - `graph`: edits that act during the answers, for instance `VAR()`.
    - `batch_size`: how many images are answered together.
    - `log`: a JSONL file to which the peaks of each image are written; an interrupted
        measurement continues from it.
    - `tick`: called in the place of a progress bar, after every batch of images.

    **Raises:** `LayoutError` if no object is left, or if it is unknown which pixels the image
    tokens cover; `CapabilityError` if sinks are needed and the model has no sink dimensions;
    `InputError` without objects; `ResultError` if `log` belongs to another measurement.
    """
    _checked(tolerance)
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}: at least one image is answered at a time")
    way = Way(
        (keys,) if isinstance(keys, str) else tuple(keys),
        lmm.layers_with(Pattern.hook) if layers is None else resolve_layers(layers, lmm.n_layers),
        row,
        graph=as_graph(graph),
        upsample=upsample,
        views=views,
        only_direct=only_direct,
        max_new_tokens=max_new_tokens,
    )
    asked = grouped(lmm, located, way)
    tell = shown(tick, "images")
    with opened_log(log, log_about(lmm, asked, way)) as kept:
        left = [i for i in range(len(asked)) if kept.wants(f"image {i}")]
        for start in range(0, len(left), batch_size):
            chosen = left[start : start + batch_size]
            for i, found in zip(chosen, measure(lmm, [asked[i] for i in chosen], way), strict=True):
                kept.add(f"image {i}", found)
            tell(len(kept.known), len(asked))
    return _judged(asked, [kept.known[f"image {i}"] for i in range(len(asked))], way, tolerance)


def _judged(
    asked: Sequence[SharedCanvas],
    found: Sequence[dict[str, Any]],
    way: Way,
    tolerance: float | int | None,
) -> Localisation:
    """The result over all images, with objects in the given order."""
    every = [
        (place, thing, one.canvas, peaks, direct)
        for one, told in zip(asked, found, strict=True)
        for place, thing, peaks, direct in zip(
            one.places, one.objects, told["peaks"], told["direct"], strict=True
        )
    ]
    named = sorted((row for row in every if row[3] is not None), key=lambda row: row[0])
    kept = [row for row in named if row[4]] if way.only_direct else named
    if not kept:
        why = "is named in its answer" if not named else "needs direct access to the image"
        raise LayoutError(f"no object {why}; the first answer is: {found[0]['answer']!r}")
    peaks = [
        [[row[3][key][i] or (-1, -1) for row in kept] for i in range(len(way.layers))]
        for key in way.keys
    ]
    return Localisation(
        tuple(row[1] for row in kept),
        tuple(row[2] for row in kept),
        np.array(peaks),
        way.keys,
        way.layers,
        tolerance=tolerance,
        given=len(every),
        named=len(named),
        direct=len(kept) if way.only_direct else None,
    )


def _checked(tolerance: float | int | None) -> float | int | None:
    if tolerance is not None and not (
        0 <= tolerance < float("inf") and not isinstance(tolerance, bool)
    ):
        raise InputError(f"a tolerance is a number of pixels, from 0 on; got {tolerance!r}")
    return tolerance
