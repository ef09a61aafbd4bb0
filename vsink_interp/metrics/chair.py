"""CHAIR: how many of the objects that captions mention are not in the image.

Rohrbach et al. (2018), arXiv 1809.02156. What is in an image is what its instance annotations *or*
its reference captions name.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, final

from ..errors import InputError
from .coco_words import COCO_WORDS

_IRREGULAR: Final[Mapping[str, str]] = {
    many: one
    for pair in (
        "people:person men:man women:woman children:child knives:knife mice:mouse geese:goose "
        "oxen:ox calves:calf buses:bus busses:bus sheep:sheep skis:skis scissors:scissors "
        "cattle:cattle glasses:glass broccoli:broccoli gentlemen:gentleman policemen:policeman "
        "firemen:fireman ladies:lady wolves:wolf loaves:loaf bus:bus"
    ).split()
    for many, one in (pair.split(":"),)
}
_ANIMALS: Final = frozenset(
    "bird cat dog horse sheep cow elephant bear zebra giraffe animal cub".split()
)
_VEHICLES: Final = frozenset(("jet", "train"))
_NOT_OBJECTS: Final = frozenset(("home plate", "toilet paper", "hot tub"))


def singular(word: str) -> str:
    """The singular of an English noun, by rule; a word that is singular already stays."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if re.search(r"(ch|sh|x|ss|z)es$", word):
        return word[:-2]
    return word[:-1] if len(word) > 3 and re.search(r"[^s'iu]s$", word) else word


@final
@dataclass(frozen=True)
class ObjectWords:
    """A vocabulary of objects: for each object the words that mean it.

    ```python
    >>> from vsink_interp.metrics import ObjectWords
    >>> words = ObjectWords({"dog": ("dog", "puppy"), "hot dog": ("hot dog",)})
    >>> words.mentions("Two puppies and a hot dog.")
    [('puppy', 'dog'), ('hot dog', 'hot dog')]

    ```

    **Attributes:**

    - `words`: by object, its other words; several words in one term are fine ("cell phone").
    """

    words: Mapping[str, tuple[str, ...]]

    @classmethod
    def coco(cls) -> "ObjectWords":
        """COCO's 80 classes, with a thesaurus of our own."""
        found: dict[str, tuple[str, ...]] = {}
        for line in COCO_WORDS.replace("\n  ", " ").splitlines()[1:]:
            name, _, others = line.partition(":")
            found[name] = tuple(word.replace("-", " ") for word in others.split())
        return cls(found)

    @classmethod
    def read(cls, path: str | Path) -> "ObjectWords":
        """A list in CHAIR's format: an object a line, its other words behind commas.

        **Raises:** `InputError` if the file is missing or holds no words.
        """
        if not Path(path).is_file():
            raise InputError(f"there is no list of synonyms at {str(path)!r}")
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        rows = [[word.strip() for word in line.split(",")] for line in lines if line.strip()]
        if not rows:
            raise InputError(f"{str(path)!r} holds no words; write 'object, synonym, synonym'")
        return cls({first: tuple(others) for first, *others in rows})

    @cached_property
    def _object_of(self) -> Mapping[str, str]:
        own = {name: name for name in self.words}
        others = {word: name for name, words in self.words.items() for word in words}
        return {" ".join(map(singular, term.split())): n for term, n in (others | own).items()}

    @cached_property
    def _longest(self) -> int:
        return max((len(term.split()) for term in self._object_of), default=1)

    def mentions(self, caption: str) -> list[tuple[str, str]]:
        """Every mention of an object in a caption: the words, and the object they mean.

        The longest term counts ("hot dog" is no dog). As in CHAIR's script, "baby" and "adult"
        before an animal and "passenger" before a vehicle are no persons, and a toilet seat is no
        chair.
        """
        words = [singular(w) for w in re.findall(r"[a-z]+(?:'[a-z]+)?", caption.lower())]
        found, at = [], 0
        while at < len(words):
            pair = " ".join(words[at : at + 2])
            if pair in _NOT_OBJECTS:
                at += 2
                continue
            if self._qualifies(words[at : at + 2]):
                at += 1
            size = next((n for n in range(self._longest, 0, -1) if self._term(words, at, n)), None)
            if size:
                term = " ".join(words[at : at + size])
                found.append((term, self._object_of[term]))
            at += size or 1
        if {"toilet", "seat"} <= set(words):
            found = [mention for mention in found if mention[0] != "seat"]
        return found

    def _term(self, words: Sequence[str], at: int, size: int) -> bool:
        part = words[at : at + size]
        return len(part) == size and " ".join(part) in self._object_of

    @staticmethod
    def _qualifies(pair: Sequence[str]) -> bool:
        first, second = (*pair, "", "")[:2]
        animal = first in ("baby", "adult") and second in _ANIMALS
        return animal or (first == "passenger" and second in _VEHICLES)

    def objects(self, captions: Iterable[str]) -> frozenset[str]:
        """The objects that some captions mention."""
        return frozenset(name for caption in captions for _, name in self.mentions(caption))


@final
@dataclass(frozen=True)
class ChairScore:
    """The hallucinated objects of some captions.

    **Attributes:**

    - `invented`: by caption, the mentions of objects that are not there: words and object.
    - `mentioned`: by caption, how many objects it mentions, repetitions included.
    - `named`, `present`: objects that are there and named, and objects that are there, over all.
    """

    invented: tuple[tuple[tuple[str, str], ...], ...]
    mentioned: tuple[int, ...]
    named: int
    present: int

    @property
    def instance(self) -> float:
        """CHAIR_i: the share of mentions that are hallucinated, 0 to 1; 0 without mentions."""
        total = sum(self.mentioned)
        return sum(map(len, self.invented)) / total if total else 0.0

    @property
    def sentence(self) -> float:
        """CHAIR_s: the share of captions with a hallucinated object, 0 to 1."""
        return sum(map(bool, self.invented)) / len(self.invented)

    @property
    def recall(self) -> float:
        """The share of the objects that are there that were named, 0 to 1; 0 if none is there."""
        return self.named / self.present if self.present else 0.0


def score_chair(
    captions: Sequence[str], truths: Sequence[Iterable[str]], words: ObjectWords
) -> ChairScore:
    """Score captions against what is in their images.

    ```python
    >>> from vsink_interp.metrics import ObjectWords, score_chair
    >>> caption = "A man holds a hot dog beside two puppies."
    >>> found = score_chair([caption], [{"person", "hot dog"}], ObjectWords.coco())
    >>> found.invented, round(found.instance, 2), found.sentence
    (((('puppy', 'dog'),),), 0.33, 1.0)

    ```

    **Arguments:**

    - `captions`: one for each image.
    - `truths`: the objects of each image, in the names of `words`: those of its annotations and
        those that its reference captions mention (`words.objects(captions)`).
    - `words`: the vocabulary.

    **Raises:** `InputError` without captions, for unequal lengths, or for objects that the
    vocabulary lacks.
    """
    if not captions or len(captions) != len(truths):
        raise InputError(f"{len(captions)} captions for {len(truths)} images; give one each")
    there = [frozenset(truth) for truth in truths]
    if strange := frozenset().union(*there) - words.words.keys():
        raise InputError(f"the vocabulary lacks these objects: {', '.join(sorted(strange))}")
    said = [words.mentions(caption) for caption in captions]
    pairs = list(zip(said, there, strict=True))
    return ChairScore(
        tuple(tuple(m for m in mentions if m[1] not in truth) for mentions, truth in pairs),
        tuple(map(len, said)),
        sum(len(truth & {name for _, name in mentions}) for mentions, truth in pairs),
        sum(map(len, there)),
    )
