"""The report: one HTML file that holds all that it shows, and asks no server for anything."""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from typing import Final, final

from ..errors import VsinkError
from .about_flow import attention_by_segment, knockout, query_token_only
from .about_input import scene_and_answer, strengths, token_layout
from .about_sinks import (
    maps_and_var,
    phi_distribution,
    ranked_heads,
    sink_dimensions,
    what_sinks_do,
)
from .page import Section, note, render, table, text
from .study import Study

KANG: Final = "Kang et al., ICLR 2025 (arXiv 2503.03321)"
KADURI: Final = "Kaduri et al., CVPR 2025 (arXiv 2411.17491)"

Watch = Callable[[str, int, int], None]
"""Called with what is being made, the steps done, and how many there are."""


@final
@dataclass(frozen=True)
class Chapter:
    """How one section of the report is made."""

    name: str
    title: str
    source: str
    make: Callable[[Study], str]


CHAPTERS: Final = (
    Chapter("answer", "The picture and the answer", "", scene_and_answer),
    Chapter("tokens", "The token layout", "", token_layout),
    Chapter("strengths", "What the answer reads of the prompt", "", strengths),
    Chapter("spectrum", "Sink dimensions", f"{KANG}, figures 2 and 7", sink_dimensions),
    Chapter("phi", "phi, its threshold, and attention", f"{KANG}, figure 3a", phi_distribution),
    Chapter("maps", "Where each word looks; VAR", f"{KANG}, figure 1", maps_and_var),
    Chapter("heads", "Heads by visual non-sink ratio", f"{KANG}, figure 4", ranked_heads),
    Chapter("ablation", "What sinks do, and do not", f"{KANG}, figures 3b and 3c", what_sinks_do),
    Chapter("segments", "Attention by segment", f"{KADURI}, figure 1", attention_by_segment),
    Chapter("knockout", "Knockout from block l on", f"{KADURI}, figure 2f", knockout),
    Chapter("query-only", "Query-token-only generation", f"{KADURI}, figure 2", query_token_only),
)  # fmt: skip

LIMITS: Final = (
    "That VAR improves a model. Published gains are small, and third parties have not all "
    "reproduced them; what is shown here is the mechanism.",
    "That one picture proves anything. Numbers over several cases say how many; those over one "
    "are an illustration.",
    "That attention is explanation. The maps say what is read; the knockouts and ablations say "
    "what is needed.",
)
TOY_LIMITS: Final = (
    "That the toy LMM stands for large models. It is trained and real, and small: a few million "
    "parameters, a closed vocabulary, drawn scenes.",
    "That sinks arise by themselves. Training of the toy LMM seeded its visual sinks on background "
    "patches; its model card says how. That they attract attention was not part of any loss.",
)


def report(study: Study, *, watch: Watch | None = None) -> str:
    """The report on a study, as HTML.

    A figure that cannot be made for this model or picture says why in its place.

    **Arguments:**

    - `watch`: told about progress.

    **Returns:** the page; write it to a file as UTF-8.
    """
    sections = []
    for done, chapter in enumerate(CHAPTERS):
        if watch is not None:
            watch(chapter.title, done, len(CHAPTERS))
        try:
            body = chapter.make(study)
        except VsinkError as error:
            body = note(f"This figure could not be made here: {error}")
        sections.append(Section(chapter.name, chapter.title, chapter.source, body))
    if watch is not None:
        watch("done", len(CHAPTERS), len(CHAPTERS))
    sections.append(Section("limits", "What this does not show", "", _limits(study)))
    title = "The toy LMM" if is_toy(study) else study.lmm.name
    return render(
        f"{title}: sinks and flows",
        "What a multimodal model does with one picture: its attention sinks, where its words look, "
        "and by which road the picture reaches the answer.",
        _facts(study),
        sections,
        "Written by vsink_interp. This file holds everything that it shows.",
    )


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
            "That the answer is right. Nobody told us what is in the picture, so object F1 "
            "compares its words, function words left out, with those of the unedited answer."
        )
    listed = "".join(f"<li>{escape(claim)}</li>" for claim in claims)
    return text("None of the following is claimed.") + f"<ul>{listed}</ul>"
