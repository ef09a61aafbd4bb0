"""The report's sections on how information flows (Kaduri et al. 2025)."""

from html import escape

from ..errors import InputError
from ..experiments import (
    knockout_sweep as measure_sweep,
    localisation as measure_localisation,
    query_only as measure_query_only,
    segment_mass as measure_segments,
    three_way,
)
from ..experiments.attention_peaks import KEYS
from ..metrics import PairedDifference
from ..model import Tick
from ..model.progress import silent
from ..results.summary import Summary
from .localisation import localisation
from .page import drawing, equation, setting, table, text
from .segments import segment_mass
from .study import Study
from .sweep import knockout_sweep

SHOWN = 4


def by_segment(study: Study) -> str:
    """Attention by segment over layers, in five segments and in the paper's three."""
    ours = measure_segments(study.lmm, study.cases, tick=silent)
    theirs = three_way(study.lmm, study.cases, tick=silent)
    return (
        text(
            "What generated tokens attend to, layer by layer. Left, five segments; right, the "
            "paper's three, in which BOS and system prompt count as query tokens: the query's "
            "share in the right-hand panel may be the attention sink on BOS."
        )
        + equation(
            "a<sub>X</sub><sup>l</sup>(t) = (1/H) &Sigma;<sub>h</sub> "
            "&Sigma;<sub>q &isin; X</sub> A<sup>l,h</sup>[t, q]",
            "(B-5)",
        )
        + drawing(segment_mass(ours, theirs), "attention by segment over the layers")
        + setting(
            f"{escape(ours.about)}; mean over {ours.pairs} pairs of image and answer token, of "
            "the mean over heads; the row that predicts the token."
        )
    )


def knockout(study: Study, tick: Tick) -> str:
    """Knockout from layer l on."""
    found, count = measure_sweep(study.lmm, study.cases, tick=tick), len(study.cases)
    rows = [
        (flow, *(_spelt(mean, change, count) for mean, change in zip(means, changes, strict=True)))
        for flow, means, changes in zip(found.flows, found.mean, found.changes, strict=True)
    ]
    spread = "no interval from one image"
    if count > 1:
        spread = "means; bands and brackets: 95 % intervals, paired bootstrap over cases"
    return (
        text(
            "A flow is cut in every layer from l on, and the answer is scored. Where a curve "
            "rises, the information has already passed, and cutting later no longer hurts. With "
            "<code>image -&gt; generated</code> cut everywhere, the query tokens are the only "
            "path from the image to the answer."
        )
        + equation(
            "A = softmax( QK<sup>T</sup> / &radic;d + M<sub>causal</sub> + M<sub>ko</sub> ), "
            "M<sub>ko</sub>[target, source] = &minus;&infin; in layers &ge; l",
            "(B-3), (B-4)",
        )
        + drawing(knockout_sweep(found), "object F1 against the first layer cut, three flows")
        + table(("flow cut", *(f"from {layer}" for layer in found.layers)), rows)
        + setting(
            f"{escape(found.about)} ({count}); object F1 against {found.reference}, uncut "
            f"{found.baseline.mean():.3f}; {spread}. Layers count from 0 and &ldquo;from l&rdquo; "
            "includes l. The last prompt row is a query row, as in the released code, so under "
            "<code>image -&gt; generated</code> the first generated token still sees the image."
        )
    )


def _spelt(mean: float, change: PairedDifference, count: int) -> str:
    """A mean, and the interval of its change from the uncut answers."""
    bracket = f" (change {change.low:+.2f} to {change.high:+.2f})" if count > 1 else ""
    return f"{mean:.3f}{bracket}"


def query_only(study: Study) -> str:
    """Query-token-only generation, compared with normal generation."""
    found = measure_query_only(study.lmm, study.cases, tick=silent)
    blind, normal = (Summary.of({}, f1) for f1 in (found.f1_query_only, found.f1_normal))
    rows = [
        (f"{i}", found.normal[i], found.query_only[i], float(found.f1_query_only[i]))
        for i in range(min(SHOWN, len(study.cases)))
    ]
    return (
        text(
            "Generation with the image hidden from every generated token: the answer relies on "
            "what the query tokens read during the prefill. In the paper, descriptions survive "
            "but become coarser."
        )
        + table(("case", "normal answer", "query tokens only", "object F1"), rows)
        + setting(
            f"<code>{escape(repr(found.graph))}</code>; {escape(found.about)}: object F1 "
            f"{blind} against {normal} of the normal answers (95 % bootstrap over "
            f"{len(found.normal)} cases), measured against {found.reference}."
        )
    )


def located(study: Study, tick: Tick) -> str:
    """Whether attention peaks at the object that a word names."""
    if not study.located:
        raise InputError(
            "no object masks are known for this input; give masks to experiments.localisation"
        )
    found = measure_localisation(
        study.lmm,
        study.located,
        keys=KEYS if study.has_sinks else KEYS[:1],
        max_new_tokens=study.max_new_tokens,
        tick=tick,
    )
    rows = [(key, *map(float, rate)) for key, rate in zip(found.keys, found.rate, strict=True)]
    return (
        text(
            "When the answer names an object, does the model attend to it? The attention of the "
            "rows that predict its name is laid over the image; a peak on the object's mask, or "
            "at most one image token away, is a hit. The second measurement leaves out visual "
            "sinks, which otherwise may be the peak."
        )
        + drawing(localisation(found), "share of objects hit over the layers, and some peaks")
        + table(("keys", *(f"layer {layer}" for layer in found.layers)), rows)
        + setting(
            f"{escape(found.about)}; bands are Wilson's 95 % intervals, chance "
            f"{found.chance:.3f} is the hit rate of random pixels. In the images the solid line "
            "is the object's mask, the dashed one what counts as a hit. Mean over heads and over "
            "the tokens of a name, upsampled bilinearly. The paper takes objects that vanish from "
            "the answer when <code>image -&gt; generated</code> is cut; here all named ones count."
        )
    )
