"""What answers the samples of a data set: a model in this process, or what stands for several."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, final

from typing_extensions import override

from ..errors import InputError, UnreachableError
from ..graph import EditGraph
from ..remote import Server
from ..results import Run
from .fingerprint import fingerprint
from .lmm import LMM, Where
from .run_store import Chunk, Made, Sample, write_part

Opener: TypeAlias = Callable[[], LMM]
"""What opens a model, in whatever process calls it."""
ATTEMPTS: Final = 6
"""How often a chunk is tried by default."""


@final
@dataclass(frozen=True, eq=False)
class Question:
    """What every sample of a data set is run under, and the folder that its run is written to."""

    graph: EditGraph
    max_new_tokens: int
    folder: Path

    @property
    def needs_sinks(self) -> bool:
        """Whether the answers depend on the model's sink dimensions."""
        return any(node.needs_sinks for node in self.graph)


class Workers(AbstractContextManager["Workers"], ABC):
    """What answers chunks; entered for the time of one job."""

    @abstractmethod
    def about(self, question: Question) -> dict[str, Any]:
        """What the answers depend on of the model that gives them."""

    @abstractmethod
    def made(self, question: Question, chunks: Iterable[Chunk]) -> Iterator[Made]:
        """Answer chunks, which are asked for as there is somebody to take them."""

    @override
    def __exit__(self, *_: object) -> None:
        return None


@final
class Here(Workers):
    """A model in this process, which may ask a server.

    **Arguments:**

    - `attempts`: how often a chunk is tried where the server does not answer.

    **Raises:** `InputError` for attempts without a server.
    """

    def __init__(
        self, source: LMM | Opener, remote: Where, attempts: int | None, *, allow_large: bool
    ) -> None:
        self.lmm = source if isinstance(source, LMM) else source()
        if attempts is not None and self.lmm.backend.server(remote) is None:
            raise InputError(
                f"attempts={attempts} counts answers that a server or a replica fails to give, and "
                "this run is local; give remote=... or on='ray' as well, or leave it out"
            )
        self.remote = remote
        self.attempts = attempts or ATTEMPTS
        self.allow_large = allow_large

    @override
    def about(self, question: Question) -> dict[str, Any]:
        return model_about(self.lmm, question)

    @override
    def made(self, question: Question, chunks: Iterable[Chunk]) -> Iterator[Made]:
        for chunk in chunks:
            where = self.lmm.backend.server(self.remote)
            yield write_part(question.folder, chunk, self._insist(chunk.samples, question, where))

    def _insist(
        self, samples: Sequence[Sample], question: Question, where: Server | None
    ) -> list[Run]:
        for turn in range(self.attempts - 1):
            try:
                return self._answers(samples, question, where)
            except UnreachableError:
                time.sleep(min(0.5 * 2**turn, 60.0))
        return self._answers(samples, question, where)

    def _answers(
        self, samples: Sequence[Sample], question: Question, where: Server | None
    ) -> list[Run]:
        if where is None:
            return answers(self.lmm, samples, question, allow_large=self.allow_large)
        session = self.lmm.session(where, allow_large=self.allow_large)
        with session:
            for sample in samples:
                session.generate(*sample, question.graph, max_new_tokens=question.max_new_tokens)
        return session.runs


def model_about(lmm: LMM, question: Question) -> dict[str, Any]:
    """What answers depend on of a model: its fingerprint, and its sinks where they matter."""
    sinks = lmm.sinks if question.needs_sinks else None
    return {"sinks": sinks and [list(sinks.dims), round(sinks.tau, 4)], **fingerprint(lmm)}


def answers(
    lmm: LMM, samples: Sequence[Sample], question: Question, *, allow_large: bool = False
) -> list[Run]:
    """The runs of some samples, one after the other."""
    length = question.max_new_tokens
    return [
        lmm.generate(*sample, question.graph, max_new_tokens=length, allow_large=allow_large)
        for sample in samples
    ]
