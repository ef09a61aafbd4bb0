"""Contrastive decoding: subtract the logits of a second pass over distorted inputs.

Leng et al. (2024), arXiv 2311.16922, distort the image (VCD); Wang et al. (2024), arXiv 2403.18715,
the instruction (ICD).
"""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from ..errors import CapabilityError, NotationError, unknown
from ..graph import CacheEdit, Edit, Layers, Node, Site, as_graph, settle
from ..kernels import contrast, diffuse
from ..tokens import TokenLayout

_IMAGES = ("noise", "none")
N_STEPS = 1000
"""The number of steps of VCD's diffusion."""


@final
@dataclass(frozen=True)
class Contrast(Edit):
    """Subtract the logits that the model gives for distorted inputs.

    A second pass of the same model runs beside the first, with its own cache: a distorted prompt,
    then the same answer. In rows that predict an answer token, logits become
    `(1 + alpha) * first - alpha * second`, and minus infinity for tokens whose probability in the
    first pass is less than `beta` times that of its most likely token. This comes before sampling
    and before every logits processor (one that forbids the most likely token may leave none).
    `Run.logits` holds contrasted logits; `probes.Logits` placed before the contrast records the
    plain ones. In `run`, only the last prompt row is contrasted.

    Other edits act in the first pass only, unless `edited`; those of `graph` in the second only. If
    only the image is distorted, samples of a batch without an image keep their logits.

    ```python
    lmm.generate(image, "What is this?", vi.Contrast("noise", alpha=1.0)).text     # VCD
    weaker = vi.Contrast(graph=vi.ScaleScores("image", 0.5))         # the second pass sees less
    lmm.generate(image, "What is this?", weaker).text
    ```

    **Arguments:**

    - `image`: `"noise"` for VCD's diffused image, `"none"` for no image.
    - `prompt`: another question for the second pass, for every sample of a batch. It is put into
        the chat format if the encoding's prompt was; with `chat=False` it is used as it is, and
        holds one `<image>` for each image that the second pass sees.
    - `prefix`: words put before the whole prompt of the second pass, as in ICD.
    - `alpha`: the weight of the difference; with 0 only `beta` has an effect.
    - `beta`: the adaptive plausibility constraint, 0 to 1; 0 is no constraint.
    - `step`: how many of 1,000 diffusion steps, 0 to 999, distort the image. Leng et al.'s script
        for POPE has alpha 1, beta 0.2, step 500; their code's defaults are alpha 0.5, beta 0.1.
    - `seed`: of the noise. It differs between the images of a prompt, not between the samples of
        a batch.
    - `edited`: apply the graph's other edits in the second pass too; they must be edits inside
        attention or of the cache.
    - `graph`: edits of the second pass alone, inside attention or of the cache; a node, several or
        a graph, kept as a tuple. With them nothing else has to be distorted.

    **Raises:** `NotationError` if nothing is distorted, a number is out of range, or a step or seed
    is given without noise. When run: `LayoutError` if there is no image to distort; `NotationError`
    for `edited` without any other edit; `CapabilityError` if pixels cannot be assigned to images,
    and for an edit outside attention in the second pass.
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
    graph: Any = ()

    def __post_init__(self) -> None:
        settle(self)
        self._take_graph()
        if self.image is not None and self.image not in _IMAGES:
            raise NotationError(unknown("distorted image", self.image, _IMAGES))
        if self.image is None and not self.prompt and not self.prefix and not self.graph:
            raise NotationError(
                "Contrast distorts nothing: give image='noise' (VCD), image='none', prefix='...' "
                "(ICD), prompt='...' or graph=..., edits of the second pass"
            )
        if not 0 <= self.alpha < math.inf or not 0 <= self.beta <= 1:
            raise NotationError(
                f"alpha is at least 0 and beta a share from 0 to 1; got {self.alpha}, {self.beta}"
            )
        if not 0 <= self.step < N_STEPS:
            raise NotationError(f"step is one of 0 to {N_STEPS - 1}; got {self.step}")
        if self.image != "noise" and (self.step, self.seed) != (Contrast.step, Contrast.seed):
            raise NotationError("step and seed belong to the noise; give image='noise' as well")

    def _take_graph(self) -> None:
        """Keep the edits of the second pass as a tuple, and refuse what cannot act there."""
        nodes: tuple[Node, ...] = tuple(as_graph(self.graph))
        object.__setattr__(self, "graph", nodes)
        odd = [n for n in nodes if not isinstance(n, Edit | CacheEdit) or isinstance(n, Contrast)]
        if odd:
            raise NotationError(
                f"the graph of a contrast holds edits inside attention or of the cache; {odd[0]!r} "
                "is none. Probes see the first pass alone"
            )
        if nodes and self.edited:
            raise NotationError(
                "edited=True lets the first pass's edits act in the second, and graph= gives it "
                "edits of its own: write them all into graph="
            )

    @property
    @override
    def needs_sinks(self) -> bool:
        return any(node.needs_sinks for node in self.graph)

    @property
    def rewords(self) -> bool:
        """Whether the second pass has other tokens than the first."""
        return self.image == "none" or bool(self.prompt) or bool(self.prefix)

    @override
    def check(self, layout: TokenLayout, *, generates: bool) -> None:
        if self.image is not None:
            layout.check_group("image")
        for node in () if self.rewords else self.graph:
            node.check(layout, generates=generates)

    def reworded(self, text: str, placeholders: Sequence[str], begin: str | None = None) -> str:
        """The rendered prompt of the second pass; `placeholders` stand for an image.

        If the text starts with a BOS token `begin`, the prefix goes after it.
        """
        for placeholder in placeholders if self.image == "none" else ():
            text = text.replace(placeholder, "")
        if not self.prefix:
            return text
        start = begin if begin and text.startswith(begin) else ""
        return f"{start}{self.prefix} {text.removeprefix(start)}"

    def spoiled(
        self,
        pixels: Tensor,
        n_images: Sequence[int],
        sizes: Sequence[int] | None = None,
        areas: Sequence[tuple[int, int]] | None = None,
    ) -> Tensor:
        """The pixels of a batch, with noise.

        **Arguments:**

        - `n_images`: the number of images of each sample.
        - `sizes`: the number of entries of `pixels` of each image; one by default.
        - `areas`: height and width of each image, where a batch pads images of different sizes at
            the right and the bottom; the padding gets no noise, and what an image gets does not
            depend on it.

        **Raises:** `CapabilityError` if entries cannot be assigned to images.
        """
        places = [place for n in n_images for place in range(n)]
        lengths = [1] * len(places) if sizes is None else list(sizes)
        if len(lengths) != len(places) or sum(lengths) != len(pixels):
            raise CapabilityError(
                f"the processor makes {len(pixels)} blocks of pixels for {len(places)} images, "
                "and which belongs to which is not known; contrast with image='none' or a prefix"
            )
        pieces = pixels.split(lengths)
        corners = [piece.shape[-2:] for piece in pieces] if areas is None else areas
        found = pixels.clone()
        for piece, (y, x), k in zip(found.split(lengths), corners, places, strict=True):
            part = piece if areas is None else piece[..., :y, :x]
            part.copy_(diffuse(part, self.noise(part.shape, k).to(part), self.step))
        return found

    def noise(self, shape: Sequence[int], place: int) -> Tensor:
        """Standard normal noise for the n-th image of its prompt."""
        source = torch.Generator().manual_seed(1000 * self.seed + place)
        # Tile by tile, because a batch may pad an image with empty ones.
        n_tiles = math.prod(shape[:-3])
        tiles = [torch.randn(shape[-3:], generator=source) for _ in range(n_tiles)]
        return torch.stack(tiles).reshape(shape)

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        second = site.extras["second"]
        first_row = max(site.layout.prompt_length - 1 - site.first_row, 0)
        rows = value[:, first_row:]
        new = contrast(rows, second[:, -rows.shape[1] :], self.alpha, self.beta)
        if not self.rewords and not self.graph:
            seen = site.keys("image").any(-1)
            new = torch.where(seen[:, None, None], new, rows)
        return torch.cat([value[:, :first_row], new], 1)
