"""Table 6: on which share of background do visual sinks lie?"""

from collections.abc import Iterator

import numpy as np

from ...experiments import ObjectMasks
from ...model import LMM
from ...probes import SinkValue
from ...tokens import ImageSpan
from ..entry import Entry, Outcome, Published, Setup
from ..measurements import Measurements, Row
from ..outcomes import higher
from ..over_cases import OverCases
from ..sources import by_image, objects

COVERED = 0.1
"""The share of a patch that an object covers, from which on it is no background."""


def background(lmm: LMM, found: tuple[ObjectMasks, ...], setup: Setup) -> Iterator[Row]:
    """The share of sinks, and of all image tokens, that lie mostly on background."""
    del setup
    probe = SinkValue("image")
    for case, here in enumerate(by_image(found)):
        run = lmm.generate(here[0].image, here[0].prompt, probe, max_new_tokens=1)
        span = run.layout.images[0][0]
        tokens, free = _free(span, np.logical_or.reduce([one.mask for one in here]))
        phi = run.of(probe, "image[0]").values[:, 0, tokens].numpy()
        for layer, sink in enumerate(phi >= lmm.sinks.tau):
            labels = {"case": case, "layer": layer}
            if sink.any():
                yield {**labels, "tokens": "visual sinks", "value": float(free[sink].mean())}
                yield {**labels, "tokens": "all image tokens", "value": float(free.mean())}


def _free(span: ImageSpan, mask: np.ndarray) -> tuple[list[int], np.ndarray]:
    """The patches of the whole image, and which of them objects hardly cover."""
    tokens, free = list(span.tokens_of()), []
    height, width = mask.shape
    for token in tokens:
        left, top, right, bottom = (round(edge) for edge in span.patch_box(token))
        part = mask[max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
        free.append(not part.size or part.mean() < COVERED)
    return tokens, np.array(free)


def _on_background(found: Measurements) -> Outcome:
    if not found.rows:
        return Outcome(None, "no image has a visual sink")
    return higher(found, {"tokens": "visual sinks"}, {"tokens": "all image tokens"})


TABLE6 = Entry(
    "A.table6",
    "where visual sinks lie, against segmentation masks",
    "visual sinks lie on background more often than image tokens at large",
    measure=OverCases(background, quick=16, full=200, at_once=8, source=objects),
    outcome=_on_background,
    figure="bars",
    axes=("tokens",),
    unit="share on background",
    published=(
        Published(
            "PASCAL VOC and COCO", "more than 90 %", "secondary source; cells not established"
        ),
    ),
    note="A patch is background where objects cover less than a tenth of it. Layers without a sink "
    "do not count.",
)
