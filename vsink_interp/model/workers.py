"""What answers the samples of a data set: a model in this process, or what stands for several."""

import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, final, runtime_checkable

from typing_extensions import override

from ..errors import InputError, ResultError, UnreachableError
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


@runtime_checkable
class Piece(Protocol):
    """A piece of work that one process does as a whole: a chunk of samples, or a few steps."""

    @property
    def name(self) -> str:
        """What errors call it."""
        ...


class Work(ABC):
    """What is done piece by piece, wherever a model was opened for it."""

    @abstractmethod
    def about(self, lmm: LMM) -> dict[str, Any]:
        """What its results depend on; the same of every copy of the model, or they do not mix."""

    @abstractmethod
    def made(self, lmm: LMM, piece: Any) -> Any:
        """Do a piece of it."""


@final
@dataclass(frozen=True, eq=False)
class Question(Work):
    """What every sample of a data set is run under, and the folder that its run is written to."""

    graph: EditGraph
    max_new_tokens: int
    folder: Path

    @override
    def about(self, lmm: LMM) -> dict[str, Any]:
        return model_about(lmm, self)

    @override
    def made(self, lmm: LMM, piece: Chunk) -> Made:
        """Answer a chunk, and write it.

        **Raises:** `ResultError` where this machine does not see the folder.
        """
        if not self.folder.is_dir():
            raise ResultError(
                f"{socket.gethostname()} sees no folder {self.folder}: name a folder= that all "
                "machines share"
            )
        return write_part(self.folder, piece, answers(lmm, piece.samples, self))

    @property
    def needs_sinks(self) -> bool:
        """Whether the answers depend on the model's sink dimensions."""
        return any(node.needs_sinks for node in self.graph)


class Workers(AbstractContextManager["Workers"], ABC):
    """What answers a data set chunk by chunk; entered for the time of one job."""

    @abstractmethod
    def about(self, work: Any) -> dict[str, Any]:
        """What the answers depend on of the model that gives them."""

    @abstractmethod
    def made(self, work: Any, pieces: Iterable[Any]) -> Iterator[Any]:
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
    def about(self, work: Question) -> dict[str, Any]:
        return model_about(self.lmm, work)

    @override
    def made(self, work: Question, pieces: Iterable[Chunk]) -> Iterator[Made]:
        for chunk in pieces:
            where = self.lmm.backend.server(self.remote)
            yield write_part(work.folder, chunk, self._insist(chunk.samples, work, where))

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
