"""ACT: the attention calibration of Yu et al. (2024), arXiv 2406.15765."""

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from ..errors import NotationError
from ..graph import Layers, Site, TopHeads
from ..kernels import calibrate
from ..tokens import parse_group
from .heads import chosen_in, heads_at
from .row_edit import RowEdit


@final
@dataclass(frozen=True)
class ACT(RowEdit):
    """Move attention from sinks, found by their mean attention, to all other tokens.

    Per head, a token other than the first is a sink if the prompt rows at and after it give it
    more than `threshold` on average. It keeps the share `beta` of its attention; the rest goes to
    all other tokens, the first included, in proportion to theirs. Every row still sums to one.

    Yu et al. choose heads by how calibrating each one changes accuracy on held-out data. Name yours
    with one `ACT` per layer, as `ACT(layers=9, heads=(8, 10)) | ACT(layers=10, heads=(0,))`. Their
    code acts in one pass over the prompt, as does this by default. With `rows="prompt generated"`,
    the sinks of a generated row are the tokens to which this row itself gives more than
    `threshold`.

    ```python
    lmm.generate(image, "What is this?", vi.ACT(0.1, beta=0.4, heads=[0, 2])).text
    ```

    **Arguments:**

    - `threshold`: the mean attention above which a token is a sink; 0.1 in the released scripts,
        0.15 in those for MT-bench.
    - `beta`: the share that a sink keeps, 0 to 1.
    - `layers`: the layers, counted from 0; by default, as in their code, all but the first two
        and the last.

    **Raises:** `NotationError` for shares outside 0 to 1. When run: `LayoutError` if the prompt
    lacks a segment.
    """

    hook: ClassVar[str] = "attn.hook_pattern"

    threshold: float = 0.1
    beta: float = 0.4
    layers: Layers = field(default="2:-1", kw_only=True)
    rows: str = field(default="prompt", kw_only=True)

    def __post_init__(self) -> None:
        RowEdit.__post_init__(self)
        if not (0 <= self.threshold <= 1 and 0 <= self.beta <= 1):
            raise NotationError(
                f"threshold and beta are shares from 0 to 1; got {self.threshold}, {self.beta}"
            )

    @property
    @override
    def whole(self) -> bool:
        return True

    @property
    @override
    def targets(self) -> tuple[str, bool] | None:
        words = parse_group(self.rows).words
        if words == {"generated"}:
            return self.rows, False
        # Means are of all prompt rows.
        return ("all" if "generated" in words else "prompt"), False

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        new = self._calibrated(value, site)
        if not isinstance(self.heads, TopHeads):
            return new
        return torch.where(chosen_in(site, self.heads, value)[..., None], new, value)

    def _calibrated(self, value: Tensor, site: Site) -> Tensor:
        bounds = site.once(self, partial(self._bounds, value.shape[1]))[..., : site.n_keys]
        rows = site.rows(self.rows)
        if not site.prefill:
            return calibrate(value, bounds, self.beta, rows)
        return calibrate(value, bounds, self.beta, rows, site.queries("prompt"), site.positions)

    def _bounds(self, n_heads: int, whole: Site) -> Float[Tensor, "batch head key"]:
        """The mean attention above which a key is a sink; infinite for a sample's first token."""
        real = whole.keys("all")
        spared = (real.cumsum(-1) <= 1)[:, None]  # the padding before it has no attention
        named = None if isinstance(self.heads, TopHeads) else self.heads
        heads = heads_at(whole, named, n_heads)[:, None]
        return torch.where(heads, torch.where(spared, torch.inf, self.threshold), -torch.inf)
