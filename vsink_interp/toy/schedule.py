"""The schedule of a training run: stages as values, in the order in which they are run."""

from dataclasses import KW_ONLY, dataclass
from typing import Final, Literal

from .language import KINDS


@dataclass(frozen=True)
class Stage:
    """One stage of training, with a fresh optimiser.

    The learning rate follows a cosine from `lr` to `lr_end` after `warmup` steps, as for
    `cosine_steps` where that is given; `vision_rate` is its factor for tower and projector, 0 =
    frozen. `told` is the share of batches with scenes told in words. A question kind is asked once
    more for each time it is named in `repeated`; with `whole_answers` all words of an answer have
    the weight of the first, with `mentions` question words have a source.

    Shares of turns, drawn independently: `no_head` turns cannot see `<s> user :`, in
    `blind_answer` turns the answer's rows cannot see the context (the image), in
    `closed_early` and `closed_late` turns no text row sees it in the first and the last two
    layers.

    Weights of auxiliary losses: `head_penalty`, `sink_weight`, `stray`, `grounding`, `places`,
    `facts`.
    """

    name: str
    kind: Literal["vision", "language"]
    _: KW_ONLY
    steps: int
    batch: int
    lr: float
    lr_end: float
    warmup: int = 100
    told: float = 0.0
    questions: int = 6
    kinds: tuple[str, ...] = KINDS
    repeated: tuple[str, ...] = ()
    mentions: bool = False
    whole_answers: bool = False
    places: float = 0.0
    facts: float = 0.0
    stray: float = 0.0
    cosine_steps: int | None = None
    first_weight: float = 4.0
    head_penalty: float = 0.0
    sink_weight: float = 0.0
    grounding: float = 0.0
    no_head: float = 0.25
    blind_answer: float = 0.4
    vision_rate: float = 0.0
    closed_early: float = 0.85
    closed_late: float = 0.6


SCHEDULE: Final = (
    Stage("vision", "vision", steps=800, batch=64, lr=2e-3, lr_end=1e-4, warmup=20),
    Stage(
        "images",
        "language",
        steps=800,
        grounding=0.3,
        batch=16,
        lr=2e-3,
        lr_end=2e-3,
        told=0.05,
        questions=7,
        first_weight=2.0,
        sink_weight=0.1,
        no_head=0.1,
        blind_answer=0.1,
        closed_late=0.3,
    ),
    Stage(
        "quiet",
        "language",
        steps=1000,
        cosine_steps=1500,
        batch=16,
        lr=2e-3,
        lr_end=1.2e-3,
        warmup=30,
        told=0.05,
        repeated=("relation", "where"),
        mentions=True,
        grounding=0.1,
        no_head=0.35,
        head_penalty=0.2,
        sink_weight=0.1,
    ),
    Stage(
        "sinks",
        "language",
        steps=600,
        cosine_steps=900,
        batch=16,
        lr=1.8e-3,
        lr_end=1.2e-3,
        warmup=30,
        told=0.05,
        repeated=("relation", "where"),
        mentions=True,
        whole_answers=True,
        grounding=0.05,
        places=0.3,
        stray=0.3,
        no_head=0.35,
        head_penalty=0.2,
        sink_weight=0.4,
    ),
    Stage(
        "facts",
        "language",
        steps=420,
        batch=16,
        lr=1.8e-3,
        lr_end=4e-4,
        warmup=20,
        told=0.02,
        repeated=("relation", "count", "count"),
        mentions=True,
        whole_answers=True,
        places=0.1,
        facts=0.3,
        stray=0.3,
        no_head=0.25,
        blind_answer=0.6,
        head_penalty=0.2,
        sink_weight=0.4,
        vision_rate=0.2,
    ),
    Stage(
        "free",
        "language",
        steps=1820,
        batch=10,
        lr=4e-4,
        lr_end=1e-5,
        warmup=20,
        told=0.02,
        repeated=("relation", "count", "count"),
        mentions=True,
        whole_answers=True,
        places=0.1,
        facts=0.3,
        head_penalty=0.2,
        no_head=0.25,
        blind_answer=0.6,
        vision_rate=0.2,
    ),
    Stage(
        "polish",
        "language",
        steps=560,
        batch=16,
        lr=5e-4,
        lr_end=1e-5,
        warmup=20,
        told=0.02,
        repeated=("relation", "relation", "relation", "count", "count"),
        mentions=True,
        whole_answers=True,
        places=0.1,
        facts=1.0,
        head_penalty=0.2,
        no_head=0.25,
        blind_answer=0.6,
        vision_rate=0.2,
    ),
)
