"""Object F1: how well two lists of objects agree (Kaduri et al. 2025, figures 2e and 2f).

Kaduri et al. let a language model list and match the objects of two captions; here the lists are
given, so the score is exact. `content_words` replaces the lists if no object vocabulary is known.
"""

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, final

FUNCTION_WORDS: Final = frozenset(
    "a an and are as at be by for from has have in into is it its of on or that the their there "
    "they this to was were which while with".split()
)
"""English function words."""

_WORD: Final = re.compile(r"\w+(?:['-]\w+)*")


def content_places(words: Sequence[str]) -> list[int]:
    """The places of the words that are no function words; of all words if there are no others.

    ```python
    >>> from vsink_interp.metrics import content_places
    >>> content_places(["There", "is", "a", "dog", "."])
    [3]

    ```
    """
    kept = [i for i, w in enumerate(words) if w.lower() not in FUNCTION_WORDS and w.isalnum()]
    return kept or list(range(len(words)))


@final
@dataclass(frozen=True)
class ObjectScore:
    """A candidate list of objects compared with a reference list, counted with multiplicity.

    **Attributes:**

    - `matched`: objects in both (true positives).
    - `invented`: objects only in the candidate (false positives).
    - `missed`: objects only in the reference (false negatives).
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

        Two empty lists: 1. One empty and one non-empty list: 0.
        """
        total = 2 * self.matched + self.invented + self.missed
        return 2 * self.matched / total if total else 1.0

    def _share(self, of: int) -> float:
        return self.matched / of if of else float(self.invented + self.missed == 0)


def score_objects(candidate: Iterable[Hashable], reference: Iterable[Hashable]) -> ObjectScore:
    """Compare two lists of objects, counted with multiplicity.

    ```python
    >>> from vsink_interp.metrics import score_objects
    >>> score_objects(["dog", "dog", "cat"], ["dog", "mat"])
    ObjectScore(matched=1, invented=2, missed=1)

    ```

    **Arguments:**

    - `candidate`: the objects of the answer under test; any hashable values.
    - `reference`: the objects in the image, or those of another answer.

    **Returns:** the counts, with `precision`, `recall` and `f1`.
    """
    found, true = Counter(candidate), Counter(reference)
    matched = (found & true).total()
    return ObjectScore(matched, found.total() - matched, true.total() - matched)


def content_words(text: str) -> tuple[str, ...]:
    """The distinct words of a text that are not function words, in order, in lower case.

    A deterministic substitute for a judge: an answer's "objects" if no vocabulary is known.

    ```python
    >>> from vsink_interp.metrics import content_words
    >>> content_words("There is a dog on the mat, and the dog sleeps.")
    ('dog', 'mat', 'sleeps')

    ```
    """
    words = _WORD.findall(text.lower())
    return tuple(dict.fromkeys(word for word in words if word not in FUNCTION_WORDS))
