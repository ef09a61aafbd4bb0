"""The released code's other ways to choose the image tokens of a compressed context."""

from collections.abc import Iterator

import torch

from ...errors import CapabilityError
from ...experiments import Quizzes
from ...model import LMM, CompressedContext, Context
from ...probes import SinkValue
from ..entry import Entry, Outcome, Setup
from ..measurements import Measurements, Row
from ..outcomes import both, higher
from ..over_cases import OverCases
from ..sources import quizzes
from .compressed import right_of

PHI = SinkValue("image")
MOST = 32
"""The absolute number of image tokens; a quarter of them where there are fewer than four times."""


def choices(n_image: int, seed: int = 0) -> dict[str, CompressedContext]:
    """A tenth of the image tokens by every score there is, and a number of them by attention."""
    count = min(MOST, n_image // 4)
    return {
        "attention over generated": CompressedContext(0.1),
        "attention over query": CompressedContext(0.1, "query-attention"),
        "norm, share": CompressedContext(0.1, "norm"),
        "norm, number": CompressedContext(score="norm", count=count),
        "attention, number": CompressedContext(count=count),
        "random": CompressedContext(0.1, "random", seed=seed),
    }


def chosen(lmm: LMM, some: Quizzes, setup: Setup) -> Iterator[Row]:
    """Accuracy, and how many of the tokens that stay are visual sinks of their layer."""
    for case, (image, asked, truth) in enumerate(
        zip(some.images, some.questions, some.answers, strict=True)
    ):
        n_image = int(lmm.encode(image, some.opening).layout.mask("image").sum())
        specs = choices(n_image, setup.seed)
        opening = (image, some.opening, list(specs.values()))
        kept = lmm.compress(*opening, max_new_tokens=some.described)
        for name, context in zip(specs, kept, strict=True):
            run = context.ask(list(asked), max_new_tokens=some.max_new_tokens)
            for right in right_of(run, truth):
                yield {"case": case, "chosen": name, "of": "accuracy", "value": float(right)}
        yield from _sinks(lmm, some, case, dict(zip(specs, kept, strict=True)))


def _sinks(lmm: LMM, some: Quizzes, case: int, kept: dict[str, Context]) -> Iterator[Row]:
    """The share of sinks among the tokens that stay, over the layers that have sinks."""
    try:
        tau = lmm.sinks.tau
    except CapabilityError:
        return
    run = lmm.generate(some.images[case], some.opening, PHI, max_new_tokens=1)
    sink = run.of(PHI, "image").values[:, 0] >= tau
    layers = sink.any(-1)
    for name, context in kept.items():
        stays = context.kept_patches[layers]
        share = (stays & sink[layers]).sum(-1) / stays.sum(-1)
        if layers.any():
            value = float(torch.mean(share))
            yield {"case": case, "chosen": name, "of": "sinks among these", "value": value}


def _norm_picks_sinks(found: Measurements) -> Outcome:
    norm, attended = ({"chosen": n} for n in ("norm, share", "attention over generated"))
    sinks, accuracy = {"of": "sinks among these"}, {"of": "accuracy"}
    return both(
        higher(found, {**norm, **sinks}, {"chosen": "random", **sinks}),
        higher(found, {**attended, **accuracy}, {**norm, **accuracy}),
    )


SELECTION = Entry(
    "B.selection",
    "answers from image tokens that attention, the norm or chance chose",
    "image tokens of the largest norm are visual sinks, and answer less than those attended to",
    measure=OverCases(chosen, quick=4, full=60, at_once=2, source=quizzes),
    draws=True,
    outcome=_norm_picks_sinks,
    figure="bars",
    axes=("chosen", "chosen", "of"),
    unit="as named",
    note="The released code's attn_over_gen, attn_over_query, norm_percentage, norm and random; "
    "the norm is that of the residual stream entering each layer. A tenth of the image tokens, or "
    f"{MOST} (a quarter in short prompts); the code's numbers have no published result.",
)
