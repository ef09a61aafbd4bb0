"""The report's sections on sinks (Kang et al. 2025)."""

from html import escape

import numpy as np

from ..errors import ResultError
from ..experiments import (
    Spectrum,
    WordMaps,
    contributions as measure_contributions,
    image_heads,
    middle_layers,
    sink_ablation as measure_ablation,
    sink_values,
    spectrum as measure_spectrum,
)
from ..experiments.sink_ablation import CROWDED
from ..model.progress import silent
from .heads import heads
from .overlay import overlay
from .page import drawing, equation, note, setting, table, text
from .sinks import contributions, phi_histogram, phi_scatter, sink_ablation, spectrum
from .study import Study

RHO = 0.5
NOTHING = 1e-4
"""Moving less attention than this is rounding, not an edit."""


def sink_dimensions(study: Study) -> str:
    """The sink dimensions, how they were found, and the spectrum of three tokens."""
    found = measure_spectrum(study.lmm, study.image, study.prompt, tick=silent)
    peaks = [
        (token, f"{position}", float(values[list(found.dims)].max()), _largest_other(found, values))
        for token, position, values in zip(found.tokens, found.positions, found.values, strict=True)
    ]
    missing = "" if "visual sink" in found.tokens else note(
        f"No image token of this image is a sink at layer {found.layer}: its largest phi is "
        f"below tau = {found.tau:.2f}."
    )  # fmt: skip
    return (
        text(
            "Sinks are tokens whose residual stream has very large values in a few fixed "
            "coordinates, the sink dimensions. In LLaMA-like models the first token is a sink, "
            "and so are some image tokens, in the same coordinates; ordinary image tokens are "
            "not."
        )
        + equation(
            "&phi;(x) = max<sub>d &isin; D<sub>sink</sub></sub> | x[d] / "
            "&radic;( (1/D) &Sigma;<sub>d'</sub> x[d']<sup>2</sup> ) |",
            "(A-3): no learned gain, no eps",
        )
        + drawing(spectrum(found), "spectrum of the first token, a visual sink and an image token")
        + missing
        + table(("token", "position", "phi", "largest other coordinate"), peaks)
        + setting(
            f"Residual stream entering layer {found.layer} of {study.lmm.n_layers}. "
            f"{escape(_discovery(study))}"
        )
    )


def _largest_other(found: Spectrum, values: np.ndarray) -> float:
    return float(np.delete(values, list(found.dims)).max())


def _discovery(study: Study) -> str:
    sinks = study.lmm.sinks
    if sinks.source.startswith("found by"):
        return f"Discovered by find_sink_dims: {study.lmm.sink_report}."
    return f"Sink dimensions {sinks.dims} with tau {sinks.tau:g}: {sinks.source}."


def phi_distribution(study: Study) -> str:
    """The histogram of phi with the threshold, and phi against attention."""
    found = sink_values(study.lmm, study.cases, tick=silent)
    below, above = found.image_phi[found.image_phi < found.tau], found.image_phi >= found.tau
    where = f"layers {found.layers[0]} to {found.layers[-1]}"
    on_sinks = float(np.nansum(found.attention[above]) / np.nansum(found.attention))
    absent = "" if above.any() else note("None of these image tokens is a sink at these layers.")
    return (
        text(
            "A token is a sink where &phi; reaches the threshold &tau;. A threshold is only as "
            "good as the gap in which it lies, so look at the histogram next to every count of "
            "sinks: &tau; = 20 is the paper's value for LLaMA-2's width, and is known to fail "
            "elsewhere."
        )
        + equation("sinks of layer l: { j : &phi;(x<sub>j</sub>) &ge; &tau; }", "(A-4)")
        + drawing(phi_histogram(found), "histogram of phi by segment, with tau")
        + absent
        + text(
            "Below, the same image tokens against the attention that they get from the text. In "
            "the paper's figure 3a the sinks form a separate cluster, high on both axes."
        )
        + drawing(phi_scatter(found), "phi of image tokens against the attention they get")
        + table(
            ("image tokens", "share of tokens", "share of the attention to the image"),
            [
                ("visual sinks", float(above.mean()), on_sinks),
                ("the others", float(below.size / above.size), 1 - on_sinks),
            ],
        )
        + setting(
            f"{escape(found.about)}; {where}; {found.sinks_per_case:.1f} visual sinks per image "
            "and layer on average. Attention: mean over heads and over the rows of query and "
            "generated tokens."
        )
    )


def words(study: Study) -> str:
    """Attention overlays per answer word, before and after VAR."""
    maps = study.maps
    absent = "" if maps.sinks.any() else note(
        "This image has no visual sink at these layers, so there is none to box."
    )  # fmt: skip
    return (
        text(
            "Visual Attention Redistribution takes the share <em>p</em> of what sinks get and "
            "gives it to the other image tokens in proportion to their attention, in "
            "image-centric heads only."
        )
        + equation(
            "A'<sub>i,j</sub> = (1 &minus; p) A<sub>i,j</sub> on sinks; "
            "A'<sub>i,j</sub> = A<sub>i,j</sub> + &Omega;<sub>i</sub> A<sub>i,j</sub> / "
            "&Sigma;<sub>k</sub> A<sub>i,k</sub> on other image tokens; "
            "&Omega;<sub>i</sub> = p &Sigma;<sub>sinks</sub> A<sub>i,j</sub>",
            "(A-6)",
        )
        + absent
        + _most_changed(maps.at(maps.most_changed))
        + _mass(maps)
        + _both_answers(maps)
        + setting(f"Edit: <code>{escape(repr(maps.graph.nodes[0]))}</code>, the paper's mode.")
    )


def _mass(maps: WordMaps) -> str:
    """A table of the words' attention to visual sinks and to the image, before and after VAR."""
    most = maps.most_changed
    rows = [
        (f"{name}, {where}", float(v[:, there.sinks].sum(1).mean()), float(v.sum(1).mean()))
        for where, there in (("first figure", maps), (f"layer {most}", maps.at(most)))
        for name, v in (("before", there.before), ("after VAR", there.after))
    ]
    return table(("attention of the answer's words", "on visual sinks", "on the whole image"), rows)


def _both_answers(maps: WordMaps) -> str:
    same = " (the same)" if maps.answer == maps.edited_answer else ""
    rows = [("before", maps.answer), ("after VAR", maps.edited_answer + same)]
    return table(("", "the model says"), rows)


def _most_changed(maps: WordMaps) -> str:
    """The words that VAR changes most at one layer, or a note that it changes none."""
    change = np.abs(maps.after - maps.before).sum(1)
    layer = maps.layers[0]
    if change.max() < NOTHING:
        return note("VAR moves nothing here: no head is image-centric on a row with sinks.")
    words = [int(i) for i in np.argsort(-change)[:6] if change[i] >= change.max() / 20]
    return text(
        f"The words that VAR changes most, at layer {layer}, where it moves the most:"
    ) + drawing(overlay(maps, words=words), f"most changed words, layer {layer}")


def ranked_heads(study: Study) -> str:
    """Heads ranked by visual non-sink ratio."""
    found = image_heads(study.lmm, study.cases, rho=RHO, tick=silent)
    inner = middle_layers(study.lmm.n_layers)
    top = [
        (
            f"{layer}.{head}",
            ratio,
            float(found.mass[found.layers.index(layer), head]),
            float(found.selected[found.layers.index(layer), head]),
        )
        for layer, head, ratio in found.top(found.ratio.numel())
        if layer in inner
    ][:5]
    return (
        text(
            "r is the share of a head's attention to the image that does not go to sinks. A head "
            "is image-centric for a row that gives the image at least 0.2 of its attention with r "
            "at or above &rho;; VAR edits those (head, row) pairs and no others."
        )
        + equation(
            "r<sub>i</sub><sup>l,h</sup> = &Sigma;<sub>visual non-sinks</sub> A<sub>i,j</sub> / "
            "&Sigma;<sub>image</sub> A<sub>i,j</sub>",
            "(A-5)",
        )
        + drawing(heads(found), "heads sorted by visual non-sink ratio")
        + table(("layer.head", "r", "share on the image", "image-centric on rows"), top)
        + setting(
            f"{escape(study.cases.about)}; rho = {RHO:g}, least image share 0.2; means over the "
            f"rows of query and generated tokens; {float(found.selected.mean()):.1%} of all (head, "
            "row) pairs are image-centric. Where no image token is a sink yet, r is 1; the table "
            f"lists layers {inner[0]} to {inner[-1]}."
        )
    )


def ablation(study: Study) -> str:
    """Hiding sinks against hiding random image tokens, and what they contribute."""
    added = measure_contributions(study.lmm, study.cases, tick=silent)
    ratio = float(added.norm[0] / added.norm[1]) if added.sinks else float("nan")
    said = (
        f"Here a visual sink adds {ratio:.2f} times as much as another image token."
        if added.sinks
        else "In the layers measured no image token is a sink, so there is nothing to compare."
    )
    return (
        text(
            "If sinks carried the visual information, hiding them would hurt more than hiding as "
            "many other image tokens. The paper finds the reverse, on POPE: 84 against 56.5, of 86 "
            "(read off its figure 3b). Below, the same comparison with object F1."
        )
        + _hidden(study)
        + text(
            "In the paper a sink gets much attention and contributes little: the norm of its "
            f"weighted value, after the output projection (figure 3c). {said}"
        )
        + drawing(contributions(added), "attention and contribution of sinks and other tokens")
        + setting(
            f"{escape(study.cases.about)}; mean over heads, query and generated rows, layers "
            f"{added.layers[0]} to {added.layers[-1]}."
        )
    )


def _hidden(study: Study) -> str:
    """What hiding the sinks costs, or why it cannot be compared."""
    try:
        hidden = measure_ablation(study.lmm, study.cases, tick=silent)
    except ResultError as error:
        return text(f"Nothing to compare: {escape(str(error))}.")
    graphs = "; ".join(escape(repr(graph.nodes[0])) for graph in hidden.graphs if len(graph))
    which = ", ".join(map(str, hidden.left_out))
    without = f" Left out, with {CROWDED}: {which} (counted from 0)." if which else ""
    return drawing(
        sink_ablation(hidden), "object F1 with sinks or random image tokens hidden"
    ) + setting(
        f"{escape(study.cases.about)}; cut before the softmax, in every layer: {graphs}; "
        f"{hidden.draws} draws a case, with the seeds from the first on.{without}"
    )
