"""`EncodedCases`: cases as a model reads them, encoded once for all steps of a sweep."""

from collections.abc import Iterator
from typing import final

from ..model import LMM, Encoding
from .cases import Cases

ROOM = 2**29
"""The most bytes of encodings that are kept; batches beyond it are encoded anew at each step."""


@final
class EncodedCases:
    """Cases, batch by batch, as encodings that are kept while there is room for them.

    **Arguments:**

    - `room`: the most bytes that are kept.
    """

    def __init__(self, lmm: LMM, cases: Cases, room: int = ROOM) -> None:
        self.lmm = lmm
        self.cases = cases
        self._room = room
        self._kept: dict[int, Encoding] = {}

    @property
    def starts(self) -> range:
        """The first case of each batch."""
        return range(0, len(self.cases), self.cases.batch_size)

    def __iter__(self) -> Iterator[Encoding]:
        return map(self.batch, self.starts)

    def batch(self, start: int) -> Encoding:
        """The batch whose first case that is."""
        return self._kept.get(start) or self._made(start)

    def _made(self, start: int) -> Encoding:
        batch = self.cases.batch(start)
        made = self.lmm.encode(list(batch.images), list(batch.prompts))
        size = sum(one.numel() * one.element_size() for one in made.inputs.values())
        if size <= self._room:
            self._room -= size
            self._kept[start] = made
        return made
