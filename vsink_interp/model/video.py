"""`Video`: frames that a model is shown as one video."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, final

from PIL.Image import Image

from ..errors import CapabilityError, InputError
from ..families import Family
from .images import as_image


@final
@dataclass(frozen=True, eq=False, repr=False)
class Video:
    """Frames of a video, sampled by you: files of videos are not decoded here.

    In a layout every step in time is an image of its own. `frame[3]` is the fourth frame: its image
    tokens, which it shares with its neighbour where a model merges frames in pairs.

    ```python
    clip = vi.Video(frames, fps=2, size=(56**2, 56**2))   # PIL images, or an array [t h w c]
    qwen, cut = vi.LMM.tiny("Qwen2-VL"), vi.Knockout("frame[0] -> generated")
    qwen.generate(clip, "What happens?", cut, max_new_tokens=3).text
    ```

    **Arguments:**

    - `frames`: a list of images, or an array or tensor with the frames first; all of one size.
    - `fps`: how many of these frames make a second; Qwen2.5-VL counts positions in time by it,
        Qwen3-VL and Qwen3.5 write each step's time into the prompt. LLaVA-OneVision and Qwen2-VL
        are told the order of frames and no times.
    - `size`: the least and the most pixels that a frame is resized to, as in `(100352, 602112)`;
        by default what the family's own processor resizes to.

    **Raises:** `InputError` for a file, no frames, frames of different sizes, an `fps` that is not
    above 0, or a `size` that is not two numbers of pixels, the least first.
    """

    frames: Any
    fps: float | int = 2.0
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.frames, str | Path):
            raise InputError(
                f"{str(self.frames)!r}: files of videos are not decoded here; give frames that you "
                "sampled, vi.Video([image, image, ...]), for instance with imageio or av"
            )
        if isinstance(self.frames, Image) or getattr(self.frames, "ndim", 4) != 4:
            raise InputError(
                "a video is a list of images, or an array [frame height width channel]; got "
                f"{getattr(self.frames, 'shape', 'one image')}"
            )
        frames = tuple(as_image(frame) for frame in self.frames)
        if not frames or len({frame.size for frame in frames}) > 1:
            raise InputError(
                f"a video has frames of one size; got {sorted({frame.size for frame in frames})}"
            )
        if not self.fps > 0:
            raise InputError(f"fps={self.fps!r}: frames per second, above 0")
        if self.size is not None and not (len(self.size) == 2 and 0 < self.size[0] <= self.size[1]):
            raise InputError(
                f"size={self.size!r}: the least and the most pixels of a frame, as in "
                "(100352, 602112)"
            )
        object.__setattr__(self, "frames", frames)

    def __len__(self) -> int:
        return len(self.frames)

    def __repr__(self) -> str:
        width, height = self.frames[0].size
        return f"Video({len(self)} frames of {width}x{height}, fps={self.fps:g})"


Shown: TypeAlias = Image | Video
"""What stands in the place of an image in a prompt."""


def as_shown(entry: Any) -> list[Shown]:
    """What one prompt shows, given as an image or a video, a list of them, or None."""
    if entry is None:
        return []
    many = entry if isinstance(entry, list | tuple) else [entry]
    return [one if isinstance(one, Video) else as_image(one) for one in many]


def filming(family: Family, shown: Sequence[Sequence[Shown]]) -> Family:
    """The family's form for these prompts: that for videos, if they show some.

    **Raises:** `CapabilityError` for a family without videos, or for videos and images together.
    """
    kinds = {isinstance(one, Video) for row in shown for one in row}
    if True not in kinds:
        return family
    if family.video is None:
        raise CapabilityError(
            f"{family.name}: videos are not read by this family here; give sampled frames as "
            "images, one {'type': 'image'} each: frame 3 of them is then the group 'image[3]'"
        )
    if len(kinds) > 1:
        raise CapabilityError(
            "images and videos in one prompt or batch would pass the vision tower twice; ask "
            "about them apart, or give frames as images"
        )
    return family.filming()
