"""The report: one HTML file that holds all that it shows, and asks no server for anything."""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from typing import Final, final

from ..errors import VsinkError
from ..model import Tick
from .about_flow import by_segment, knockout, located, query_only
from .about_input import scene_and_answer, strengths, token_layout
from .about_sinks import ablation, phi_distribution, ranked_heads, sink_dimensions, words
from .page import Section, note, render, table, text
from .study import Study

KANG: Final = "Kang et al., ICLR 2025 (arXiv 2503.03321)"
KADURI: Final = "Kaduri et al., CVPR 2025 (arXiv 2411.17491)"

Watch = Callable[[str, float], None]
"""Called with what is being made, and the share of the work that is done, 0 to 1."""


@final
@dataclass(frozen=True)
class Chapter:
    """How one section of the report is made; `weight` is its share of the time, roughly."""

    name: str
    title: str
    source: str
    make: Callable[[Study, Tick], str]
    weight: int = 1


def still(make: Callable[[Study], str]) -> Callable[[Study, Tick], str]:
    """A section that is quick enough to need no progress of its own."""
    return lambda study, tick: make(study)  # noqa: ARG005


CHAPTERS: Final = (
    Chapter("answer", "The image and the answer", "", still(scene_and_answer)),
    Chapter("tokens", "The token layout", "", still(token_layout)),
    Chapter("strengths", "What the answer reads of the prompt", "", still(strengths)),
    Chapter("spectrum", "Sink dimensions", f"{KANG}, fig. 2 and 7", still(sink_dimensions)),
    Chapter("phi", "Threshold and attention", f"{KANG}, fig. 3a", still(phi_distribution), 3),
    Chapter(
        "maps", "Where each word looks, before and after VAR", f"{KANG}, fig. 1", still(words), 2
    ),
    Chapter("heads", "Heads by non-sink ratio", f"{KANG}, fig. 4", still(ranked_heads), 2),
    Chapter("ablation", "What sinks do, and do not", f"{KANG}, fig. 3b, 3c", still(ablation), 6),
    Chapter("segments", "Attention by segment", f"{KADURI}, fig. 1", still(by_segment), 2),
    Chapter("knockout", "Knockout from layer l on", f"{KADURI}, fig. 2f", knockout, 20),
    Chapter("query-only", "Query-token-only generation", f"{KADURI}, fig. 2", still(query_only)),
    Chapter("located", "Does a word look at its object?", f"{KADURI}, fig. 6, 7", located, 2),
)
"""The sections of the report, in order."""

LIMITS: Final = (
    "That VAR improves a model. Published gains are small, and third parties have not all "
    "reproduced them; what is shown here is the mechanism.",
    "That one image proves anything. Numbers over several cases say how many; those over one "
    "are an illustration.",
    "That attention is explanation. The maps say what is read; the knockouts and ablations say "
    "what is needed.",
)
TOY_LIMITS: Final = (
    "That the toy LMM stands for large models. It is trained and real, and tiny: a "
    "closed vocabulary, drawn scenes.",
    "That sinks arise by themselves. Training of the toy LMM seeded its visual sinks on background "
    "patches, and drew idle attention towards them; both losses were off at the end. See its card.",
    "That a model reads its image in these layers. Training of the toy LMM closed the first and "
    "last layers to the image in most turns, which puts the step of the knockout curves between.",
    "That attention finds objects unasked. Early in training of the toy LMM a loss told two heads "
    "of layers 3 and 4 where to look; it was off at the end.",
)


def report(study: Study, *, watch: Watch | None = None) -> str:
    """The report on a study, as HTML.

    A figure that cannot be made for this model or image says why in its place.

    **Arguments:**

    - `watch`: told about progress.

    **Returns:** the page; write it to a file as UTF-8.
    """
    sections, done, total = [], 0, sum(chapter.weight for chapter in CHAPTERS)
    for chapter in CHAPTERS:

        def tick(step: int, steps: int, chapter: Chapter = chapter, done: int = done) -> None:
            if watch is not None:
                watch(chapter.title, (done + chapter.weight * step / steps) / total)

        tick(0, 1)
        sections.append(_section(chapter, study, tick))
        done += chapter.weight
    sections.append(Section("limits", "What this does not show", "", _limits(study)))
    title = "The toy LMM" if is_toy(study) else study.lmm.name
    return render(
        f"{title}: sinks and flows",
        "What a multimodal model does with one image: its attention sinks, where its words look, "
        "and by which road the image reaches the answer.",
        _facts(study),
        sections,
        "Written by vsink_interp. This file holds everything that it shows.",
    )


def _section(chapter: Chapter, study: Study, tick: Tick) -> Section:
    try:
        body = chapter.make(study, tick)
    except VsinkError as error:
        body = note(f"This figure could not be made here: {error}")
    return Section(chapter.name, chapter.title, chapter.source, body)


def is_toy(study: Study) -> bool:
    """Whether the model is the one that ships with the package."""
    from ..toy import weights_dir

    return study.lmm.hf_model.config.name_or_path == str(weights_dir)


def _facts(study: Study) -> str:
    lmm = study.lmm
    parameters = sum(weight.numel() for weight in lmm.hf_model.parameters())
    dtype = str(lmm.hf_model.dtype).removeprefix("torch.")
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("vsink-interp", "torch", "transformers", "nnsight")
    )
    rows = [
        ("model", "the toy LMM that ships with vsink_interp" if is_toy(study) else lmm.name),
        (
            "built as",
            f"{lmm}, {parameters / 1e6:.2f} M parameters, {dtype} on {lmm.hf_model.device}",
        ),
        ("averages over", f"{study.cases.about} ({len(study.cases)})"),
        ("made with", f"{versions}; Python {platform.python_version()}"),
    ]
    return table(("", ""), rows)


def _limits(study: Study) -> str:
    claims = [*(TOY_LIMITS if is_toy(study) else ()), *LIMITS]
    if study.cases.truth is None:
        claims.append(
            "That the answer is right. Nobody told us what is in the image, so object F1 "
            "compares its words, function words left out, with those of the unedited answer."
        )
    listed = "".join(f"<li>{escape(claim)}</li>" for claim in claims)
    return text("None of the following is claimed.") + f"<ul>{listed}</ul>"
