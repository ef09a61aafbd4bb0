"""The report: one self-contained HTML file that loads nothing from the network."""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Final, final

from ..errors import VsinkError
from ..model import Tick
from .about_flow import by_segment, knockout, located, query_only
from .about_input import every_word, scene_and_answer, strengths, token_layout
from .about_sinks import ablation, phi_distribution, ranked_heads, sink_dimensions, words
from .page import Section, note, render, table, text
from .study import Study

KANG: Final = "Kang et al., ICLR 2025 (arXiv 2503.03321)"
KADURI: Final = "Kaduri et al., CVPR 2025 (arXiv 2411.17491)"

Watch = Callable[[str, float], None]
"""Called with the name of the section in progress, and the share of work done, 0 to 1."""


@final
@dataclass(frozen=True)
class Chapter:
    """One section of the report and how to make it; `weight` is roughly its share of the time."""

    name: str
    title: str
    source: str
    make: Callable[[Study, Tick], str]
    weight: int = 1


def still(make: Callable[[Study], str]) -> Callable[[Study, Tick], str]:
    """A section that reports no progress while it is made."""
    return lambda study, tick: make(study)  # noqa: ARG005


CHAPTERS: Final = (
    Chapter("answer", "The image and the answer", "", still(scene_and_answer)),
    Chapter("view", "What each word attends to", f"{KANG}, fig. 1", still(every_word), 2),
    Chapter("tokens", "The token layout", "", still(token_layout)),
    Chapter("strengths", "What the answer attends to in the prompt", "", still(strengths)),
    Chapter("spectrum", "Sink dimensions", f"{KANG}, fig. 2 and 7", still(sink_dimensions)),
    Chapter("phi", "Threshold and attention", f"{KANG}, fig. 3a", still(phi_distribution), 3),
    Chapter(
        "maps",
        "What VAR moves",
        f"{KANG}, fig. 1 and 5",
        still(words),
        2,
    ),
    Chapter("heads", "Heads by non-sink ratio", f"{KANG}, fig. 4", still(ranked_heads), 2),
    Chapter("ablation", "What sinks do, and do not", f"{KANG}, fig. 3b, 3c", still(ablation), 6),
    Chapter("segments", "Attention by segment", f"{KADURI}, fig. 1", still(by_segment), 2),
    Chapter("knockout", "Knockout from layer l on", f"{KADURI}, fig. 2f", knockout, 20),
    Chapter("query-only", "Query-token-only generation", f"{KADURI}, fig. 2", still(query_only)),
    Chapter("located", "Does a word attend to its object?", f"{KADURI}, fig. 6, 7", located, 2),
)
"""The sections of the report, in order."""

LIMITS: Final = (
    "That VAR improves a model. Published gains are small, and third parties have not all "
    "reproduced them; this report shows the mechanism.",
    "That one image proves anything. Numbers over several cases state how many; those from a "
    "single case are an illustration.",
    "That attention is explanation. Maps show what is read; knockouts and hidden keys show what "
    "is needed.",
)
TOY_LIMITS: Final = (
    "That the toy LMM stands for large models. It is a trained model, but tiny, with a closed "
    "vocabulary and drawn scenes.",
    "That sinks arise by themselves. Training of the toy LMM seeded its visual sinks on background "
    "patches, and drew idle attention towards them; both losses were off at the end. See its card.",
    "That models in general read the image in these layers. Training of the toy LMM closed its "
    "first and last layers to the image in most turns, which forces the step of the knockout "
    "curves in between.",
    "That attention finds objects unasked. Early in training of the toy LMM, a loss taught two "
    "heads of layers 3 and 4 where to attend; it was off at the end.",
)
SMALL_LIMITS: Final = (
    "That the small LMM stands for large models, or sees what photographs show. It was trained on "
    "drawn scenes, and names colours and shapes in whatever it is shown.",
    "That its sinks owe nothing to training. They are SmolLM2's own, and no loss speaks of them, "
    "but what its projector makes of background was chosen by counting them. See its card.",
)


def report(study: Study, *, watch: Watch | None = None) -> str:
    """The report on a study, as HTML.

    Where a figure cannot be made for this model or image, the section says why.

    ```py
    study = vi.plot.Study.of_image(lmm, "dog.jpg", "Describe the image.")
    Path("report.html").write_text(vi.plot.report(study), encoding="utf-8")
    ```

    **Arguments:**

    - `watch`: called with progress.

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
        "What a multimodal model does with one image: its attention sinks, what its words attend "
        "to, and how the image reaches the answer.",
        _facts(study),
        sections,
        "Written by vsink_interp. This file is self-contained.",
    )


def _section(chapter: Chapter, study: Study, tick: Tick) -> Section:
    try:
        body = chapter.make(study, tick)
    except VsinkError as error:
        body = note(f"This figure could not be made here: {error}")
    return Section(chapter.name, chapter.title, chapter.source, body)


def is_toy(study: Study) -> bool:
    """Whether the model is the toy LMM that ships with the package."""
    from ..toy import weights_dir

    return study.lmm.hf_model.config.name_or_path == str(weights_dir)


def is_small(study: Study) -> bool:
    """Whether the model is a form of the small LMM that ships with the package."""
    from ..small.model import cache_dir

    folder = Path(study.lmm.hf_model.config.name_or_path)
    return folder.parent == cache_dir() and folder.name.startswith("small-")


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
    of_model = TOY_LIMITS if is_toy(study) else SMALL_LIMITS if is_small(study) else ()
    claims = [*of_model, *LIMITS]
    if study.cases.truth is None:
        claims.append(
            "That the answer is right. The contents of this image are unknown, so object F1 "
            "compares the answer's words, without function words, with those of the unedited "
            "answer."
        )
    listed = "".join(f"<li>{escape(claim)}</li>" for claim in claims)
    return text("None of the following is claimed.") + f"<ul>{listed}</ul>"
