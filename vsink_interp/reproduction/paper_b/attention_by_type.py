"""Figures 1 and 4: attention of generated tokens by type, and where in the image it lies."""

from collections.abc import Iterator

from ...experiments import Cases, segment_mass
from ...experiments.depth import pattern_layers, sweep_layers
from ...model import LMM
from ...model.progress import silent
from ...probes import AttentionMaps
from ...probes.mass import THREE_WAY
from ..entry import Entry, Outcome, Published, Setup
from ..maps import map_rows
from ..measurements import Measurements, Row
from ..outcomes import higher, shown_only
from ..over_cases import OverCases
from ..paper_a.sink_attention import one_by_one

NAMES = {"image": "image", "prompt & ~image": "query", "generated": "generated"}


def by_type(lmm: LMM, cases: Cases, setup: Setup) -> Iterator[Row]:
    """The share of attention of each of the paper's three groups, and its share of the tokens."""
    del setup
    for case, one in one_by_one(cases):
        found = segment_mass(lmm, one, groups=THREE_WAY, tick=silent)
        for place, group in enumerate(found.groups):
            name = NAMES[group]
            share = float(found.count[place])
            yield {"case": case, "of": "tokens", "group": name, "value": share}
            for layer, mean in zip(found.layers, found.mean[:, place].tolist(), strict=True):
                labels = {"case": case, "of": "attention", "group": name}
                yield {**labels, "layer": layer, "value": mean}


def layer_maps(lmm: LMM, cases: Cases, setup: Setup) -> Iterator[Row]:
    """Attention to the image of the rows that predict the answer, layer by layer."""
    del setup
    probe = AttentionMaps(layers=pattern_layers(lmm))
    for case, (image, prompt) in enumerate(zip(cases.images, cases.prompts, strict=True)):
        run = lmm.generate(image, prompt, probe, max_new_tokens=cases.max_new_tokens)
        record = run.of(run.answering(probe), "image[0]").mean("query")
        layers = record.labels("layer")
        span = run.layout.images[0][0]
        for place in sweep_layers(len(layers), 12):
            values = record.values[place, 0].float().numpy()
            labels = {"case": case, "layer": layers[place]}
            yield from map_rows(values, span, image, None, labels)


def _query_rules(found: Measurements) -> Outcome:
    query = higher(
        found, {"of": "attention", "group": "query"}, {"of": "attention", "group": "image"}
    )
    means = [s.mean for s in found.where(of="attention", group="query").summary(["layer"])]
    tokens = found.mean(of="tokens", group="query")
    most = sum(mean > 0.6 for mean in means)
    told = (
        f"query tokens are {tokens:.0%} of the tokens and get over 60 % in {most} of {len(means)}"
    )
    return Outcome(query.holds, f"{told} layers; {query.because}")


FIG1 = Entry(
    "B.fig1",
    "attention of generated tokens by type, layer by layer",
    "query tokens get more attention than the image",
    measure=OverCases(by_type, quick=8, full=80, at_once=8),
    outcome=_query_rules,
    figure="curves",
    axes=("layer", "group"),
    unit="share of attention",
    published=(
        Published("query tokens", "under 5 % of tokens, over 60 % of attention in most layers",
                  "secondary source"),
    ),
    note="The paper counts BOS and the system prompt among the query tokens, so a sink on BOS "
    "counts as attention to the query.",
)  # fmt: skip
FIG4 = Entry(
    "B.fig4",
    "attention to the image, layer by layer",
    "early and late layers look at a few outliers, middle layers spread over content",
    measure=OverCases(layer_maps, quick=2, full=10, at_once=1),
    outcome=shown_only,
    figure="maps",
    axes=("layer",),
    unit="attention to the patch (share)",
)
