"""Contrastive decoding: a second pass over spoiled inputs, subtracted from the first.

Leng et al. (2024), arXiv 2311.16922, spoil the image (VCD); Wang et al. (2024), arXiv 2403.18715,
the instruction (ICD).
"""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from ..errors import CapabilityError, NotationError, unknown
from ..graph import Edit, Layers, Site
from ..kernels import contrast, diffuse
from ..tokens import TokenLayout

_IMAGES = ("noise", "none")
N_STEPS = 1000
"""The steps of VCD's diffusion."""


@final
@dataclass(frozen=True)
class Contrast(Edit):
    """Subtract what the model would say to spoiled inputs from what it says.

    A second pass of the same model runs beside the first, with a cache of its own, over the same
    answer after a spoiled prompt. Where an answer token is predicted, logits become
    `(1 + alpha) * first - alpha * second`, and minus infinity for tokens that the first pass gives
    less than `beta` times the probability of its best. That comes before every logits processor
    (one that forbids the best token may leave none) and before sampling, so `Run.logits` holds
    contrasted logits, and `probes.Logits` the plain ones where it stands before the contrast. Other
    prompt rows keep their logits: in `run` it acts on the last one.

    Other edits act in the first pass alone, unless `edited`. Of a batch, samples without an image
    keep their logits where the image alone is spoiled.

    **Arguments:**

    - `image`: `"noise"` for VCD's diffused image, `"none"` for no image.
    - `prompt`: another question for the second pass, for every sample of a batch. It is put into
        the chat format if the encoding's own was; with `chat=False` it is taken as it is, with
        `<image>` for each image that the second pass sees.
    - `prefix`: words before the whole prompt, as a system prompt: ICD's disturbance.
    - `alpha`: how much of the difference is added; 0 changes nothing but for `beta`.
    - `beta`: the adaptive plausibility constraint, 0 to 1; 0 is none.
    - `step`: how many of 1,000 diffusion steps, 0 to 999, spoil the image. Leng et al.'s script
        for POPE has alpha 1, beta 0.2, step 500; their code falls back on alpha 0.5, beta 0.1.
    - `seed`: of the noise. It differs between the images of a prompt, not between the samples of
        a batch.
    - `edited`: let the graph's edits act in the second pass too; inside attention
        and of the cache only.

    **Raises:** `NotationError` if nothing is spoiled, a number lies outside its range, or a step
    or seed comes without noise. When run: `LayoutError` without an image to spoil; `NotationError`
    where `edited` meets no other edit;
    `CapabilityError` for pixels that cannot be told apart by image, and where `edited` meets an
    edit outside attention.
    """

    hook: ClassVar[str] = "unembed.hook_out"
    layers: ClassVar[Layers] = ":"

    image: str | None = None
    prompt: str | None = None
    _: KW_ONLY
    prefix: str | None = None
    alpha: float = 1.0
    beta: float = 0.1
    step: int = 500
    seed: int = 0
    edited: bool = False

    def __post_init__(self) -> None:
        if self.image is not None and self.image not in _IMAGES:
            raise NotationError(unknown("spoiled image", self.image, _IMAGES))
        if self.image is None and not self.prompt and not self.prefix:
            raise NotationError(
                "Contrast spoils nothing: say image='noise' (VCD), image='none', prefix='...' "
                "(ICD) or prompt='...'"
            )
        if not 0 <= self.alpha < math.inf or not 0 <= self.beta <= 1:
            raise NotationError(
                f"alpha is at least 0 and beta a share from 0 to 1; got {self.alpha}, {self.beta}"
            )
        if not 0 <= self.step < N_STEPS:
            raise NotationError(f"step is one of 0 to {N_STEPS - 1}; got {self.step}")
        if self.image != "noise" and (self.step, self.seed) != (Contrast.step, Contrast.seed):
            raise NotationError("step and seed belong to the noise; say image='noise' as well")

    @property
    def rewords(self) -> bool:
        """Whether the second pass has other tokens than the first."""
        return self.image == "none" or bool(self.prompt) or bool(self.prefix)

    @override
    def check(self, layout: TokenLayout, *, generates: bool) -> None:
        if self.image is not None:
            layout.check_group("image")

    def reworded(self, text: str, placeholders: Sequence[str], begin: str | None = None) -> str:
        """A rendered prompt as the second pass gets it; `placeholders` stand for an image.

        A BOS token `begin` that the text starts with stays in front of the prefix.
        """
        for placeholder in placeholders if self.image == "none" else ():
            text = text.replace(placeholder, "")
        if not self.prefix:
            return text
        start = begin if begin and text.startswith(begin) else ""
        return f"{start}{self.prefix} {text.removeprefix(start)}"

    def spoiled(
        self, pixels: Tensor, n_images: Sequence[int], sizes: Sequence[int] | None = None
    ) -> Tensor:
        """The pixels of a batch with noise in them.

        **Arguments:**

        - `n_images`: how many of each sample.
        - `sizes`: how many entries of `pixels` each image has; one by default.

        **Raises:** `CapabilityError` if the entries cannot be told apart by image.
        """
        places = [place for n in n_images for place in range(n)]
        lengths = [1] * len(places) if sizes is None else list(sizes)
        if len(lengths) != len(places) or sum(lengths) != len(pixels):
            raise CapabilityError(
                f"the processor makes {len(pixels)} layers of pixels of {len(places)} images, "
                "and which belongs to which is not known; contrast with image='none' or a prefix"
            )
        pieces = zip(pixels.split(lengths), places, strict=True)
        return torch.cat(
            [diffuse(piece, self.noise(piece.shape, k).to(piece), self.step) for piece, k in pieces]
        )

    def noise(self, shape: Sequence[int], place: int) -> Tensor:
        """Standard normal noise for the image at a place of its prompt."""
        source = torch.Generator().manual_seed(1000 * self.seed + place)
        # Tile by tile: a batch may add empty ones behind those of an image.
        n_tiles = math.prod(shape[:-3])
        tiles = [torch.randn(shape[-3:], generator=source) for _ in range(n_tiles)]
        return torch.stack(tiles).reshape(shape)

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        second = site.extras["second"]
        first_row = max(site.layout.prompt_length - 1 - site.first_row, 0)
        rows = value[:, first_row:]
        new = contrast(rows, second[:, -rows.shape[1] :], self.alpha, self.beta)
        if not self.rewords:
            seen = site.keys("image").any(-1)
            new = torch.where(seen[:, None, None], new, rows)
        return torch.cat([value[:, :first_row], new], 1)
