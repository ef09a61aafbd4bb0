"""Move the activation of neurons of the vision encoder into one patch (Jiang et al. 2025)."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, final

from torch import Tensor
from typing_extensions import override

from ..errors import LayoutError, NotationError
from ..graph import Edit, Layers, Site, freeze, settle
from ..kernels import move_neurons
from .numbers import check_finite


@final
@dataclass(frozen=True)
class MoveNeurons(Edit):
    """Give one patch the highest activation of neurons of a vision layer's MLP, others none.

    Jiang et al. (2025), arXiv 2506.08010, algorithm 2: for each register neuron r, with A its
    activation after the nonlinearity, A[to, r] = max_t A[t, r], and A[t, r] = 0 for every other t.
    The patches of large norm move with it. `recipes.registers` moves them out of the image, into
    an added token; `experiments.register_neurons` finds the neurons.

    ```python
    moved = vi.MoveNeurons((3, 17), 0, layers=0)      # to the first of the tower: CLIP's CLS
    run = lmm.run(image, "What is this?", moved)
    ```

    **Arguments:**

    - `neurons`: the neurons, as numbered at `vision_encoder.blocks.{layer}.mlp.hook_post`.
    - `to`: the patch that gets the activation, as the tower counts them: what it puts before the
        patches (CLS, registers) comes first, padding counts too, and -1 is the last.
    - `layers`: the layers of the vision encoder, counted from 0.
    - `scale`: a factor of the activation that is moved.
    - `by`: `"max"` moves the highest activation, as published; `"size"` the one farthest from zero,
        with its sign, as later versions of the released code do. Gated neurons have both signs.
    - `spare`: how many of the tower's first tokens keep their activation: 0 as in algorithm 2, 1
        (CLS) as in the released code.

    **Raises:** `NotationError` for a neuron that the MLP lacks, or another `by`. When run:
    `LayoutError` without an image, and for several images that the tower takes as one row of
    patches (Qwen2-VL and its successors): one's maximum would be moved into another.
    """

    hook: ClassVar[str] = "vision_encoder.blocks.{layer}.mlp.hook_post"

    neurons: tuple[int, ...]
    to: int
    layers: Layers
    _: KW_ONLY
    scale: float = 1.0
    by: str = "max"
    spare: int = 0

    def __post_init__(self) -> None:
        settle(self)
        freeze(self, "neurons")
        check_finite(self, "scale")
        if not self.neurons or min(self.neurons) < 0 or self.spare < 0:
            raise NotationError(
                f"{self!r}: at least one neuron, from 0 on, and no less than 0 spared tokens"
            )
        if self.by not in ("max", "size"):
            raise NotationError(f"by={self.by!r} is not one of: max, size")

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        _, n_patches, width = value.shape
        self._refuse(site, value.shape[0])
        if max(self.neurons) >= width:
            raise NotationError(f"{self!r}: the MLP has the neurons 0 to {width - 1}")
        if not -n_patches <= self.to < n_patches:
            raise NotationError(f"{self!r}: the tower has the tokens 0 to {n_patches - 1}")
        signed = self.by == "size"
        return move_neurons(value, list(self.neurons), self.to, self.scale, signed, self.spare)

    def _refuse(self, site: Site, n_rows: int) -> None:
        shown = sum(map(len, site.layout.images))
        if n_rows == 1 and shown > 1:
            raise LayoutError(
                f"{self!r}: the vision encoder takes the {shown} images as one row of patches, and "
                "the activation of one would be moved into another; run them one by one"
            )
