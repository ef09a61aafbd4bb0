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

    def __iter__(self) -> Iterator[Encoding]:
        for number, batch in enumerate(self.cases.batches()):
            yield self._kept.get(number) or self._made(number, batch)

    def _made(self, number: int, batch: Cases) -> Encoding:
        made = self.lmm.encode(list(batch.images), list(batch.prompts))
        size = sum(one.numel() * one.element_size() for one in made.inputs.values())
        if size <= self._room:
            self._room -= size
            self._kept[number] = made
        return made
