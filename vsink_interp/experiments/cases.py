"""`Cases`: the images and prompts of an experiment, and how answers are read into objects."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import final

from PIL.Image import Image

from ..errors import InputError
from ..metrics import content_words, score_objects
from ..model import ImageInput, as_image
from ..results.result import OneLine
from ..toy import Scene, scene
from ..toy.language import DESCRIBE, parse_objects


@final
@dataclass(frozen=True, eq=False, repr=False)
class Cases(OneLine):
    """Images with one prompt each.

    ```python
    drawn = ex.Cases.scenes(3)                                # toy scenes, whose objects are known
    yours = ex.Cases((image, other), ("describe the image",) * 2, max_new_tokens=8)
    ```

    **Attributes:**

    - `images`: one per case; paths and arrays are opened.
    - `prompts`: one per case.
    - `read`: turns an answer into its objects.
    - `truth`: the true objects of each case; None if they are unknown.
    - `about`: a description of the cases.
    - `max_new_tokens`: the longest answer.
    - `batch_size`: how many cases are generated together; lower it if memory runs out.
    """

    images: tuple[Image, ...]
    prompts: tuple[str, ...]
    read: Callable[[str], Iterable[Hashable]] = content_words
    truth: tuple[tuple[Hashable, ...], ...] | None = None
    _: KW_ONLY
    about: str = "the given image"
    max_new_tokens: int = 40
    batch_size: int = 50

    def __post_init__(self) -> None:
        if isinstance(self.prompts, str):
            raise InputError(
                f"cases have one prompt per image, and got the text {self.prompts!r}; for the same "
                f"prompt about each write ({self.prompts!r},) * {len(self.images)}"
            )
        object.__setattr__(self, "images", tuple(as_image(image) for image in self.images))
        object.__setattr__(self, "prompts", tuple(self.prompts))
        counts = {len(self.images), len(self.prompts), len(self.truth or self.images)}
        if counts == {0} or len(counts) > 1:
            raise InputError(
                f"cases need one prompt (and one truth, if any) per image; got "
                f"{len(self.images)} images and {len(self.prompts)} prompts"
            )

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def scenes(
        cls, count: int, first_seed: int = 0, *, draw: Callable[[int], Scene] = scene
    ) -> "Cases":
        """Toy scenes from seed `first_seed` on, to be described; their objects are known.

        **Arguments:**

        - `draw`: makes the scene of a seed; `toy.scene`, or one with another background.
        """
        drawn = [draw(first_seed + i) for i in range(count)]
        return cls(
            tuple(one.image for one in drawn),
            (DESCRIBE,) * count,
            parse_objects,
            tuple(parse_objects(one.caption) for one in drawn),
            about=f"toy scenes {first_seed} to {first_seed + count - 1}",
        )

    @classmethod
    def of(cls, image: ImageInput, prompt: str, *, max_new_tokens: int = 128) -> "Cases":
        """A single prompt about one image, whose true objects are unknown."""
        return cls((as_image(image),), (prompt,), max_new_tokens=max_new_tokens, batch_size=1)

    def batches(self) -> Iterator["Cases"]:
        """The cases in order, at most `batch_size` at a time."""
        for start in range(0, len(self), self.batch_size):
            yield self.batch(start)

    def batch(self, start: int) -> "Cases":
        """At most `batch_size` cases from one of them on."""
        part = slice(start, start + self.batch_size)
        truth = None if self.truth is None else self.truth[part]
        return replace(self, images=self.images[part], prompts=self.prompts[part], truth=truth)

    def f1(self, answers: Sequence[str], references: Sequence[str] | None = None) -> list[float]:
        """Object F1 of each answer against the truth or, if that is unknown, a reference answer.

        **Raises:** `InputError` if neither is known.
        """
        if self.truth is not None:
            wanted: Sequence[Iterable[Hashable]] = self.truth
        elif references is not None:
            wanted = [self.read(text) for text in references]
        else:
            raise InputError("nothing to score against: these cases have no truth, nor references")
        pairs = zip(answers, wanted, strict=True)
        return [score_objects(self.read(answer), true).f1 for answer, true in pairs]
