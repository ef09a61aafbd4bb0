"""The report's sections on how information flows (Kaduri et al. 2025)."""

from html import escape

from ..experiments import (
    knockout_sweep as measure_sweep,
    query_only as measure_query_only,
    segment_mass as measure_segments,
    three_way,
)
from ..experiments.log import Tick
from .page import drawing, equation, setting, table, text
from .segments import segment_mass
from .study import Study
from .sweep import knockout_sweep

SHOWN = 4


def by_segment(study: Study) -> str:
    """Attention by segment over the blocks, in our split and the paper's."""
    ours = measure_segments(study.lmm, study.cases)
    theirs = three_way(study.lmm, study.cases)
    return (
        text(
            "Where a generated token looks, block by block. Left, our five segments; right, the "
            "paper's three, where BOS and system prompt count as query tokens: what the right-hand "
            "panel shows of the query may be the attention sink on BOS."
        )
        + equation(
            "a<sub>X</sub><sup>l</sup>(t) = (1/H) &Sigma;<sub>h</sub> "
            "&Sigma;<sub>q &isin; X</sub> A<sup>l,h</sup>[t, q]",
            "(B-5)",
        )
        + drawing(segment_mass(ours, theirs), "attention by segment over the blocks")
        + setting(
            f"{escape(ours.about)}; mean and standard deviation (band) over {ours.pairs} pairs of "
            "picture and answer token, of the mean over heads; the row that predicts the token."
        )
    )


def knockout(study: Study, tick: Tick) -> str:
    """Knockout from block l on."""
    found = measure_sweep(study.lmm, study.cases, tick=tick)
    rows = [(flow, *map(float, found.mean[i])) for i, flow in enumerate(found.flows)]
    count = len(study.cases)
    spread = (
        "means; the bands are one standard deviation" if count > 1 else "one picture: no spread"
    )
    return (
        text(
            "Cut a flow in every block from l on, and see what is left of the answer. Where a "
            "curve rises, the information has passed: cutting later no longer hurts. With "
            "<code>image -&gt; generated</code> cut everywhere, the query tokens are the only road "
            "from the image to the answer."
        )
        + equation(
            "A = softmax( QK<sup>T</sup> / &radic;d + M<sub>causal</sub> + M<sub>ko</sub> ), "
            "M<sub>ko</sub>[target, source] = &minus;&infin; in blocks &ge; l",
            "(B-3), (B-4)",
        )
        + drawing(knockout_sweep(found), "object F1 against the first block cut, three flows")
        + table(("flow cut", *(f"from {layer}" for layer in found.layers)), rows)
        + setting(
            f"{escape(found.about)} ({count}); object F1 against {found.reference}, uncut "
            f"{found.baseline.mean():.3f}; {spread}. Blocks count from 0 and &ldquo;from l&rdquo; "
            "includes l. The last prompt row is a query row, as in the released code, so "
            "<code>image -&gt; generated</code> leaves the first generated token its sight."
        )
    )


def query_only(study: Study) -> str:
    """Query-token-only generation beside the normal one."""
    found = measure_query_only(study.lmm, study.cases)
    rows = [
        (f"{i}", found.normal[i], found.query_only[i], float(found.f1_query_only[i]))
        for i in range(min(SHOWN, len(study.cases)))
    ]
    return (
        text(
            "Generation with the image hidden from every generated token: what the query tokens "
            "gathered during the prefill must do. In the paper the description stays, coarser."
        )
        + table(("case", "normal answer", "query tokens only", "object F1"), rows)
        + setting(
            f"<code>{escape(repr(found.graph))}</code>; {escape(found.about)}: object F1 "
            f"{found.f1_query_only.mean():.3f} ± {found.f1_query_only.std():.3f} against "
            f"{found.f1_normal.mean():.3f} of the normal answers, measured against "
            f"{found.reference}."
        )
    )
