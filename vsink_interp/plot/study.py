"""What a report is about: a model, one picture and prompt to look at, and cases to average over."""

from dataclasses import dataclass
from functools import cached_property
from typing import final

from PIL.Image import Image

from ..experiments import Cases, Located, WordMaps, word_maps
from ..lmm import LMM
from ..pictures import Picture, as_picture
from ..results import Run
from ..toy import scene
from ..toy.language import DESCRIBE


@final
@dataclass(frozen=True, eq=False)
class Study:
    """A model, one picture and prompt to look at closely, and cases to average over.

    **Attributes:**

    - `lmm`: the model.
    - `picture`, `prompt`: looked at closely.
    - `cases`: averaged over.
    - `truth`: what is really in the picture, in words; empty where nobody knows.
    - `located`: objects of which somebody knows where they lie, in these or other pictures.
    """

    lmm: LMM
    picture: Image
    prompt: str
    cases: Cases
    truth: str = ""
    located: tuple[Located, ...] = ()

    @classmethod
    def of_scenes(cls, lmm: LMM, *, scenes: int = 50, seed: int = 0) -> "Study":
        """The toy scene of a seed, and as many scenes as told from that seed on.

        Objects are located in the first dozen of these.
        """
        shown, cases = scene(seed), Cases.scenes(scenes, seed)
        located = Located.scenes(min(scenes, 12), seed)
        return cls(lmm, shown.image, DESCRIBE, cases, shown.caption, located)

    @classmethod
    def of_picture(
        cls, lmm: LMM, picture: Picture, prompt: str, *, max_new_tokens: int = 128
    ) -> "Study":
        """A picture of one's own: it is its only case, and nobody knows the truth about it."""
        opened = as_picture(picture)
        return cls(lmm, opened, prompt, Cases.of(opened, prompt, max_new_tokens=max_new_tokens))

    @property
    def max_new_tokens(self) -> int:
        """The longest answer."""
        return self.cases.max_new_tokens

    @cached_property
    def run(self) -> Run:
        """The answer to the picture."""
        return self.lmm.generate(self.picture, self.prompt, max_new_tokens=self.max_new_tokens)

    @cached_property
    def maps(self) -> WordMaps:
        """Where the words of the answer look, before and after VAR.

        **Raises:** `CapabilityError` if the model has no sink dimensions.
        """
        return word_maps(self.lmm, self.picture, self.prompt, max_new_tokens=self.max_new_tokens)
