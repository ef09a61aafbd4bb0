"""Figures 8a and 8b: where along the depth sinks are, at several thresholds."""

from collections.abc import Iterator

import numpy as np

from ...experiments import Cases
from ...model import LMM
from ...probes import SinkValue
from ...tokens import SEGMENTS
from ..entry import Entry, Outcome, Published, Setup
from ..measurements import Measurements, Row
from ..over_cases import OverCases

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5)
"""Thresholds, as multiples of the model's own."""


def profile(lmm: LMM, cases: Cases, setup: Setup) -> Iterator[Row]:
    """phi of every prompt token entering three layers: 0, 2 and 20 of 32, scaled to the depth."""
    del setup
    last = lmm.n_layers - 1
    layers = sorted({0, max(1, round(2 * last / 31)), round(20 * last / 31)})
    probe = SinkValue(layers=tuple(layers))
    for case, (image, prompt) in enumerate(zip(cases.images, cases.prompts, strict=True)):
        encoding = lmm.encode(image, prompt)
        # Unlike run, it computes, and fetches from a server, the logits of the last row alone.
        run = lmm.generate(encoding, graph=probe, max_new_tokens=1)
        phi = run.of(probe, "prompt").values[:, 0]
        names = [SEGMENTS[code - 1] for code in encoding.layout.segments[0].tolist() if code > 0]
        for layer, values in zip(layers, phi.tolist(), strict=True):
            for position, (segment, value) in enumerate(zip(names, values, strict=True)):
                yield {
                    "case": case, "layer": layer, "position": position, "segment": segment,
                    "value": value,
                }  # fmt: skip


def counts(lmm: LMM, cases: Cases, setup: Setup) -> Iterator[Row]:
    """The number of visual sinks entering each layer, by threshold."""
    del setup
    probe = SinkValue("image")
    for case, (image, prompt) in enumerate(zip(cases.images, cases.prompts, strict=True)):
        run = lmm.generate(image, prompt, probe, max_new_tokens=1)
        phi = run.of(probe, "image").values[:, 0]
        for scale in SCALES:
            tau = round(scale * lmm.sinks.tau, 3)
            for layer, count in enumerate((phi >= tau).sum(-1).tolist()):
                own = int(scale == 1.0)
                yield {"case": case, "tau": tau, "own": own, "layer": layer, "value": float(count)}


def _not_at_first(found: Measurements) -> Outcome:
    images = found.where(segment="image")
    tops = {
        layer: float(np.max([row["value"] for row in images.where(layer=layer).rows]))
        for layer in images.labels("layer")
    }
    told = ", ".join(f"layer {layer}: {top:.1f}" for layer, top in tops.items())
    first, *later = tops.values()
    return Outcome(max(later) > 1.5 * first, f"largest phi of an image token: {told}")


def _from_the_second_layer(found: Measurements) -> Outcome:
    means = {s.group["layer"]: s.mean for s in found.where(own=1).summary(["layer"])}
    late = [mean for layer, mean in means.items() if layer >= 2]
    early = [mean for layer, mean in means.items() if layer < 2]
    told = f"{np.mean(early):.2f} an image in layers 0 and 1, {np.mean(late):.2f} later"
    return Outcome(bool(np.mean(late) > 0 and np.mean(early) < 0.1 * np.mean(late)), told)


FIG8A = Entry(
    "A.fig8a",
    "phi along the prompt, entering layers 0, 2 and 20 of 32",
    "no image token is a sink at the first layer; some are from the third on",
    measure=OverCases(profile, quick=2, full=10, at_once=1),
    outcome=_not_at_first,
    figure="curves",
    axes=("position", "segment", "layer"),
    unit="phi",
    published=(
        Published("LLaVA-1.5-7B", "none at layer 0, from layer 2 on", "read off figure 8a"),
    ),
)
FIG8B = Entry(
    "A.fig8b",
    "the number of visual sinks by layer and threshold",
    "there are none in the first two layers, and a few in every later one",
    measure=OverCases(counts, quick=8, full=100, at_once=4),
    outcome=_from_the_second_layer,
    figure="curves",
    axes=("layer", "tau"),
    unit="visual sinks an image",
    published=(
        Published("LLaVA-1.5-7B, layer 2", "6.9", "read off figure 8b (MME)"),
        Published("layer 10", "7.05", "read off figure 8b (MME)"),
        Published("layer 31", "5.7", "read off figure 8b (MME)"),
    ),
)
