"""Object F1: how much of one list of objects another one holds (Kaduri et al. 2025, fig. 2e, 2f).

They let a language model list and match the objects of two captions; here the lists are given, so
the score is exact. Where no object vocabulary is known, `content_words` stands in for the lists.
"""

import re
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Final, final

FUNCTION_WORDS: Final = frozenset(
    "a an and are as at be by for from has have in into is it its of on or that the their there "
    "they this to was were which while with".split()
)
"""English words that name nothing."""

_WORD: Final = re.compile(r"\w+(?:['-]\w+)*")


@final
@dataclass(frozen=True)
class ObjectScore:
    """How a candidate list of objects fares against a reference list, counted with multiplicity.

    **Attributes:**

    - `matched`: objects in both (true positives).
    - `invented`: objects of the candidate alone (false positives).
    - `missed`: objects of the reference alone (false negatives).
    """

    matched: int
    invented: int
    missed: int

    @property
    def precision(self) -> float:
        """The share of the candidate that is right, 0 to 1; of an empty candidate, see `f1`."""
        return self._share(self.matched + self.invented)

    @property
    def recall(self) -> float:
        """The share of the reference that was found, 0 to 1; of an empty reference, see `f1`."""
        return self._share(self.matched + self.missed)

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall, 0 to 1.

        Two empty lists agree: 1. One empty list and one that is not: 0.
        """
        total = 2 * self.matched + self.invented + self.missed
        return 2 * self.matched / total if total else 1.0

    def _share(self, of: int) -> float:
        return self.matched / of if of else float(self.invented + self.missed == 0)


def score_objects(candidate: Iterable[Hashable], reference: Iterable[Hashable]) -> ObjectScore:
    """Match two lists of objects, each object as often as it occurs.

    **Arguments:**

    - `candidate`: the objects of the answer under test, as anything that compares.
    - `reference`: the objects that are there, or those of the answer it is compared with.

    **Returns:** the counts, with `precision`, `recall` and `f1`.
    """
    found, true = Counter(candidate), Counter(reference)
    matched = (found & true).total()
    return ObjectScore(matched, found.total() - matched, true.total() - matched)


def content_words(text: str) -> tuple[str, ...]:
    """The different words of a text that are no function words, in order, in lower case.

    The deterministic stand-in for a judge: an answer's "objects" where no vocabulary is known.
    """
    words = _WORD.findall(text.lower())
    return tuple(dict.fromkeys(word for word in words if word not in FUNCTION_WORDS))
