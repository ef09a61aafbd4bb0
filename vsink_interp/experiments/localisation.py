"""Does a word look at the object that it names? (Kaduri et al. 2025, fig. 6 and 7).

No code of this experiment was released, and the paper leaves open how objects of several tokens are
pooled and what an image of several views is. What is chosen here is said at each argument.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from ..errors import InputError, LayoutError
from ..graph import Graphlike, Layers, as_graph, resolve_layers
from ..metrics import Canvas, chance, distance_to, wilson
from ..model import LMM, Tick
from ..probes import Pattern
from ..results import Recorded
from ..storage import RowLog
from .attention_peaks import DIRECT, KEYS, SharedCanvas, Way, grouped, log_about, measure
from .object_masks import ObjectMasks


@final
@dataclass(frozen=True, eq=False)
class Localisation:
    """Where the words for some objects look, layer by layer, and whether the objects are there.

    **Attributes:**

    - `located`: the objects that were measured.
    - `canvases`: the image of each, with the pixels that each image token covers.
    - `peaks`: column and row of the pixel of most attention; -1 where attention has no peak.
    - `keys`: the groups of image tokens that counted.
    - `layers`: the layers.
    - `tolerance`: how many pixels beside its mask still hit an object; None for the side of one
        image token, in pixels of the image.
    - `given`: how many objects there were; `named`: how many of them the answer names; `direct`:
        how many of these need direct access to the image, None if that was not asked.
    """

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

    def within(self, tolerance: float | int | None) -> "Localisation":
        """The same peaks, judged by another tolerance."""
        return replace(self, tolerance=_checked(tolerance))

    @cached_property
    def tolerances(self) -> Float[np.ndarray, " object"]:
        """The tolerance for each object, in pixels of its image."""
        own = [canvas.token_side for canvas in self.canvases]
        return np.array(own if self.tolerance is None else [float(self.tolerance)] * len(own))

    @cached_property
    def distance(self) -> Float[np.ndarray, "keys layer object"]:
        """Pixels from peak to mask: 0 on it, infinite where there is no peak."""
        found = np.empty(self.peaks.shape[:-1])
        for place in np.ndindex(found.shape):
            x, y = map(int, self.peaks[place])
            found[place] = distance_to(self.located[place[-1]].mask, (x, y) if x >= 0 else None)
        return found

    @property
    def hits(self) -> Bool[np.ndarray, "keys layer object"]:
        """Whether the peak lies at most the tolerance beside the mask."""
        return self.distance <= self.tolerances

    @property
    def rate(self) -> Float[np.ndarray, "keys layer"]:
        """The share of objects that are hit."""
        return self.hits.mean(-1)

    @property
    def interval(self) -> tuple[Float[np.ndarray, "keys layer"], Float[np.ndarray, "keys layer"]]:
        """Wilson's 95 % interval of the rate; it takes the objects for independent."""
        return wilson(self.hits.sum(-1).astype(float), len(self.located))

    @cached_property
    def chances(self) -> Float[np.ndarray, " object"]:
        """How often a random pixel would hit each object, of those that some image token covers."""
        parts = zip(self.located, self.canvases, self.tolerances, strict=True)
        return np.array([chance(one.mask, at.seen, float(most)) for one, at, most in parts])

    @property
    def chance(self) -> float:
        """The hit rate to expect of random peaks."""
        return float(self.chances.mean())

    @property
    def best(self) -> int:
        """The layer of the highest rate, under the first of `keys`."""
        return self.layers[int(self.rate[0].argmax())]

    @property
    def record(self) -> Recorded:
        """The hits, 1 or 0, as a record with named axes: `record.mean("object").to_pandas()`."""
        coords = {"keys": self.keys, "layer": self.layers}
        hits = torch.from_numpy(self.hits.astype(np.float32))
        return Recorded(hits, ("keys", "layer", "object"), coords)

    def __str__(self) -> str:
        """The rates and their intervals, layer by layer, beside the chance level."""
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

    @property
    def about(self) -> str:
        """How many objects were measured, of how many, and what counts as a hit."""
        parts = [f"{self.named} named of {self.given}"]
        if self.direct is not None:
            parts.append(f"{self.direct} of these gone under {DIRECT.flow!r} cut")
        least, most = self.tolerances.min(), self.tolerances.max()
        pixels = f"{least:.1f}" if least == most else f"{least:.1f} to {most:.1f}"
        count = f"{len(self.located)} objects in {len(set(self.canvases))} images"
        return f"{count} ({', '.join(parts)}); within {pixels} pixels"


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
    rows: Path | None = None,
    tick: Tick | None = None,
) -> Localisation:
    """Let the model speak of each object, and see where attention peaks when it names it.

    A layer's attention to the image tokens, mean over heads and over the tokens of the object's
    name, is upsampled to the image. The object is hit if the pixel of most attention lies on its
    mask or at most `tolerance` beside it. Objects that the answer does not name are left out, and
    counted.

    **Arguments:**

    - `located`: the objects; those with the same image and prompt share an answer.
    - `layers`: the layers, counted from 0; all that have a pattern by default.
    - `keys`: `"image"`, `"image & ~sink"`, by default both side by side. Without sinks, attention
        to the visual sinks of a layer counts as 0 there.
    - `row`: `"predicts"` takes the row whose output is the token, as everywhere here and as the
        paper's released code keeps attention; `"token"` the row of the token itself, one later.
        The paper says "of the generated token". A last token that was never fed back has no row
        of its own: an object that ends the answer is then not named.
    - `tolerance`: in pixels of the image; the side of one image token by default, which the
        paper's 40 pixels are roughly.
    - `upsample`, `views`: as in `metrics.Canvas`: how attention becomes pixels, and which views of
        an image in tiles count. Neither is told in the paper.
    - `only_direct`: keep only objects that are no longer named under `Knockout("image ->
        generated")`: the paper's selection, details that need direct access to the image. One more
        answer per image.
    - `graph`: edits that act meanwhile, for instance `VAR()`.
    - `batch_size`: how many images are answered together.
    - `rows`: a JSONL file that takes the peaks in every image as they come; a measurement that
        was cut short goes on from there.
    - `tick`: told after every batch of images.

    **Raises:** `LayoutError` if no object is left, or if it is not known which pixels the image
    tokens cover; `CapabilityError` if sinks are wanted of a model that has no sink dimensions;
    `InputError` without objects; `ResultError` if `rows` belongs to another measurement.
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
    log: RowLog[dict[str, Any]]
    with RowLog(rows, log_about(lmm, asked, way)) as log:
        left = [i for i in range(len(asked)) if f"image {i}" not in log.known]
        for start in range(0, len(left), batch_size):
            chosen = left[start : start + batch_size]
            for i, found in zip(chosen, measure(lmm, [asked[i] for i in chosen], way), strict=True):
                log.add(f"image {i}", found)
            if tick is not None:
                tick(len(log.known), len(asked))
    return _judged(asked, [log.known[f"image {i}"] for i in range(len(asked))], way, tolerance)


def _judged(
    asked: Sequence[SharedCanvas],
    found: Sequence[dict[str, Any]],
    way: Way,
    tolerance: float | int | None,
) -> Localisation:
    """The result over all images, objects in the order in which they were given."""
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
