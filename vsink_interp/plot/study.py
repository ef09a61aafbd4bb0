"""`Study`: the input of a report."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import final

from PIL.Image import Image

from ..errors import CapabilityError
from ..experiments import Cases, ObjectMasks, WordMaps, word_maps
from ..model import LMM, ImageInput, as_image
from ..model.progress import silent
from ..results import Run
from ..toy import Scene, scene
from ..toy.language import DESCRIBE


@final
@dataclass(frozen=True, eq=False)
class Study:
    """A model, one image and prompt to look at closely, and cases to average over.

    ```python
    shown = vi.plot.Study.of_image(lmm, image, prompt, max_new_tokens=3)
    shown.run.text                                            # vi.plot.report(shown) makes the page
    ```

    **Attributes:**

    - `lmm`: the model.
    - `image`, `prompt`: the input that is shown in detail.
    - `cases`: the cases to average over.
    - `truth`: the true contents of the image, in words; empty if unknown.
    - `located`: objects with known masks, in these or other images.
    """

    lmm: LMM
    image: Image
    prompt: str
    cases: Cases
    truth: str = ""
    located: tuple[ObjectMasks, ...] = ()

    @classmethod
    def of_scenes(
        cls,
        lmm: LMM,
        *,
        scenes: int = 50,
        seed: int = 0,
        draw: Callable[[int], Scene] = scene,
    ) -> "Study":
        """The toy scene of a seed, and a number of scenes from that seed on as cases.

        Objects are located in the first twelve of them.

        **Arguments:**

        - `draw`: makes the scene of a seed; `toy.scene`, or one with another background.
        """
        shown, cases = draw(seed), Cases.scenes(scenes, seed, draw=draw)
        located = ObjectMasks.scenes(min(scenes, 12), seed, draw=draw)
        return cls(lmm, shown.image, DESCRIBE, cases, shown.caption, located)

    @classmethod
    def of_image(
        cls, lmm: LMM, image: ImageInput, prompt: str, *, max_new_tokens: int = 128
    ) -> "Study":
        """Your own image, which is the only case; its true contents are unknown."""
        opened = as_image(image)
        return cls(lmm, opened, prompt, Cases.of(opened, prompt, max_new_tokens=max_new_tokens))

    @property
    def max_new_tokens(self) -> int:
        """The longest answer."""
        return self.cases.max_new_tokens

    @cached_property
    def has_sinks(self) -> bool:
        """Whether sink dimensions of the model are known, or were found."""
        try:
            return bool(self.lmm.sinks.dims)
        except CapabilityError:
            return False

    @cached_property
    def run(self) -> Run:
        """The answer to the image."""
        return self.lmm.generate(self.image, self.prompt, max_new_tokens=self.max_new_tokens)

    @cached_property
    def maps(self) -> WordMaps:
        """Attention maps of the answer's words, before and after VAR.

        **Raises:** `CapabilityError` if the model has no sink dimensions.
        """
        longest = self.max_new_tokens
        return word_maps(self.lmm, self.image, self.prompt, max_new_tokens=longest, tick=silent)
