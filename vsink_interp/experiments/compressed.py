"""Answers from compressed contexts (Kaduri et al. 2025, figure 5 and table 1)."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from itertools import product
from typing import Any, ClassVar, Final, final

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL.Image import Image

from ..errors import InputError, ResultError, unknown
from ..metrics import read_answer
from ..model import LMM, CompressedContext, Context, Tick
from ..results.result import OneLine, Result
from ..storage import Log
from ..toy import scene
from ..toy.language import YES_NO_KINDS
from .provenance import dependence, with_provenance
from .steps import taken

CHOSEN: Final = ("attention", "attention-without-sinks", "contribution", "random")
KEEPS: Final = (0.05, 0.1, 0.2, 0.5, 1.0)
QUERY_ONLY: Final = CompressedContext(strategy="q")


@final
@dataclass(frozen=True, eq=False, repr=False)
class Quizzes(OneLine):
    """Images with yes/no questions about each.

    ```python
    drawn = ex.Quizzes.scenes(2)
    yours = ex.Quizzes((image,), (("is there a circle?",),), (("yes",),), max_new_tokens=2)
    ```

    **Attributes:**

    - `images`: one per quiz.
    - `questions`, `answers`: of each image; answers are "yes" or "no".
    - `opening`: the first prompt, whose answer's attention chooses the context.
    - `about`: a description of the quizzes.
    - `described`, `max_new_tokens`: the length limits of the opening answer and of the others.
    """

    images: tuple[Image, ...]
    questions: tuple[tuple[str, ...], ...]
    answers: tuple[tuple[str, ...], ...]
    opening: str = "describe the image"
    _: KW_ONLY
    about: str = "the given images"
    described: int = 128
    max_new_tokens: int = 8

    def __post_init__(self) -> None:
        sizes = [list(map(len, part)) for part in (self.questions, self.answers)]
        if not self.images or sizes[0] != sizes[1] or len(sizes[0]) != len(self.images):
            raise InputError("a quiz has an image and as many answers as questions")
        if 0 in sizes[0] or not {a for row in self.answers for a in row} <= {"yes", "no"}:
            raise InputError("a quiz asks at least one question, answered by yes or no")

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def scenes(cls, count: int, first_seed: int = 0) -> "Quizzes":
        """The yes/no questions of toy scenes from seed `first_seed` on."""
        drawn = [scene(first_seed + i) for i in range(count)]
        asked = [[q for q in one.questions if q.kind in YES_NO_KINDS] for one in drawn]
        return cls(
            tuple(one.image for one in drawn),
            tuple(tuple(q.text for q in row) for row in asked),
            tuple(tuple(q.answer for q in row) for row in asked),
            about=f"toy scenes {first_seed} to {first_seed + count - 1}",
            described=48,
            max_new_tokens=4,
        )


@final
@dataclass(frozen=True, eq=False, repr=False)
class ContextScore(OneLine):
    """Accuracy of the answers from one kind of context.

    **Attributes:**

    - `spec`: what was kept; None for the whole prompt.
    - `right`: which questions were answered correctly.
    - `tokens`: the number of tokens in the context, mean over layers and images; with `spec=None`,
        of the prompt including the question.
    """

    spec: CompressedContext | None
    right: Bool[np.ndarray, " question"]
    tokens: float

    @property
    def name(self) -> str:
        """Its name in the paper's table."""
        if self.spec is None:
            return "naive"
        if self.spec.strategy == "q":
            return "query only"
        best = f"K={100 * self.spec.keep:g}% by {self.spec.score}"
        return f"query + {best}" if self.spec.strategy == "qs" else f"{best} only"

    @property
    def accuracy(self) -> float:
        """The share of questions answered correctly."""
        return float(self.right.mean())


@final
@dataclass(frozen=True, eq=False, repr=False)
class CompressedAnswers(Result):
    """Answers from compressed contexts, as in Kaduri et al.'s table 1.

    **Attributes:**

    - `scores`: one per kind of context; the first is the whole prompt, the second only the query.
    - `image`: the index of each question's image.
    - `about`: a description of the images.
    """

    figure: ClassVar[str] = "compressed_context"
    measured: ClassVar[tuple[str, ...]] = ("right", "tokens")
    axis_labels: ClassVar[Mapping[str, str]] = {"context": "contexts"}
    columns: ClassVar[Mapping[str, str]] = {"case": "cases"}

    scores: tuple[ContextScore, ...]
    image: tuple[int, ...]
    about: str

    @property
    def contexts(self) -> tuple[str, ...]:
        """The names of the contexts, as in the paper's table."""
        return tuple(score.name for score in self.scores)

    @property
    def right(self) -> Bool[np.ndarray, "context question"]:
        """Which questions were answered correctly."""
        return np.array([score.right for score in self.scores])

    @property
    def tokens(self) -> Float[np.ndarray, " context"]:
        """The number of tokens in each context."""
        return np.array([score.tokens for score in self.scores])

    @property
    def cases(self) -> Int[np.ndarray, " question"]:
        """The index of each question's image."""
        return np.array(self.image)

    def plus(self, score: ContextScore) -> float:
        """MME's ACC+: the share of images for which all questions were answered correctly."""
        images = np.array(self.image)
        return float(np.mean([score.right[images == p].all() for p in np.unique(images)]))

    @property
    def curves(self) -> tuple[tuple[str, str], ...]:
        """Score and strategy of every curve there is, in the order in which they were measured."""
        specs = [s.spec for s in self.scores if s.spec and "s" in s.spec.strategy]
        return tuple(dict.fromkeys((spec.score, spec.strategy) for spec in specs))

    def curve(
        self, score: str, strategy: str = "qs"
    ) -> tuple[Float[np.ndarray, " keep"], Float[np.ndarray, " keep"]]:
        """The shares kept, and the accuracy at each, where image tokens were chosen by `score`.

        **Arguments:**

        - `strategy`: beside the query tokens (`"qs"`), or alone (`"s"`).

        **Raises:** `ResultError` listing the curves there are.
        """
        strategies = dict.fromkeys(how for _, how in self.curves)
        if strategy not in strategies:
            raise ResultError(unknown("strategy of these answers", strategy, strategies))
        if (score, strategy) not in self.curves:
            known = [name for name, how in self.curves if how == strategy]
            raise ResultError(unknown("score of these answers", score, known))
        wanted = (score, strategy)
        specs = [(s.spec, s.accuracy) for s in self.scores if s.spec]
        found = sorted((spec.keep, a) for spec, a in specs if (spec.score, spec.strategy) == wanted)
        keep, accuracy = np.array(found).T
        return keep, accuracy

    def table(self) -> str:
        """Accuracy, ACC+ and tokens of every kind of context, as in the paper's table 1."""
        width = max(len(score.name) for score in self.scores)
        rows = [f"{'':{width}}    ACC   ACC+  tokens"]
        rows += [
            f"{s.name:{width}}  {s.accuracy:5.1%}  {self.plus(s):5.1%}  {s.tokens:6.1f}"
            for s in self.scores
        ]
        return "\n".join(rows)

    __str__ = table


@with_provenance
def compressed_context(
    lmm: LMM,
    quizzes: Quizzes,
    *,
    keeps: Sequence[float] = KEEPS,
    scores: Sequence[str] = CHOSEN,
    strategies: Sequence[str] = ("qs",),
    seed: int = 0,
    log: Log = None,
    tick: Tick | None = None,
) -> CompressedAnswers:
    """Answer all questions from contexts of several sizes, and from the whole prompt.

    ```python
    quizzes = ex.Quizzes((image,), (("is there a circle?",),), (("yes",),), described=4)
    found = ex.compressed_context(lmm, quizzes, keeps=(0.1, 0.5), scores=["attention"])
    [(score.accuracy, score.tokens) for score in found.scores]
    ```

    **Arguments:**

    - `keeps`, `scores`: the shares of image tokens that stay, and the scores that choose them.
    - `strategies`: image tokens with the query tokens (`"qs"`), or alone (`"s"`).
    - `seed`: of the score `"random"`.
    - `log`: a JSONL file to which the answers about each image are written; an interrupted
        measurement continues from it.
    - `tick`: called in the place of a progress bar, after every image.

    **Raises:** `ResultError` if `log` belongs to another measurement.
    """
    seeds = {"random": seed}
    specs = (
        QUERY_ONLY,
        *(
            CompressedContext(keep, score, strategy=how, seed=seeds.get(score, 0))
            for how, score, keep in product(strategies, scores, keeps)
        ),
    )
    steps = ((f"image {i}", partial(_ask, lmm, quizzes, i, specs)) for i in range(len(quizzes)))
    asks = any(spec.needs_sinks for spec in specs)
    about = dependence("compressed_context", lmm, needs_sinks=asks, quizzes=quizzes, contexts=specs)
    found = [*taken(steps, len(quizzes), about, log=log, tick=tick, what="images")]
    kinds = [
        ContextScore(
            spec,
            np.array(
                [
                    read_answer(text, "mme") == answer
                    for row, answers in zip(found, quizzes.answers, strict=True)
                    for text, answer in zip(row["answers"][n], answers, strict=True)
                ]
            ),
            float(np.mean([row["tokens"][n] for row in found])),
        )
        for n, spec in enumerate((None, *specs))
    ]
    image = [i for i, questions in enumerate(quizzes.questions) for _ in questions]
    return CompressedAnswers(tuple(kinds), tuple(image), quizzes.about)


def _ask(lmm: LMM, quizzes: Quizzes, i: int, specs: Sequence[CompressedContext]) -> dict[str, Any]:
    """The answers about one image and their numbers of tokens: the whole prompt first."""
    image, questions = quizzes.images[i], list(quizzes.questions[i])
    longest = quizzes.max_new_tokens
    naive = lmm.generate([image] * len(questions), questions, max_new_tokens=longest)
    contexts: tuple[Context, ...] = lmm.compress(
        image, quizzes.opening, specs, max_new_tokens=quizzes.described
    )
    prompt = naive.layout.mask("prompt").sum(-1).float().mean()
    asked = [context.ask(questions, max_new_tokens=longest) for context in contexts]
    return {
        "answers": [run.text for run in (naive, *asked)],
        "tokens": [float(prompt), *(context.tokens_kept.total for context in contexts)],
    }
