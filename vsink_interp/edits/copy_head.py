"""Give heads the attention pattern of another head."""

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor
from typing_extensions import override

from ..errors import NotationError
from ..graph import Site, Sizes, TopHeads
from ..kernels import copy_head
from .heads import check_heads, heads_at, heads_in, heads_of
from .row_edit import RowEdit


@final
@dataclass(frozen=True)
class CopyHead(RowEdit):
    """Replace the pattern of `heads` by that of head `source`, in the same layer.

    ```python
    run = lmm.run(image, "What is this?", vi.CopyHead(source=0, heads=[1, 2], layers=3))
    ```

    **Arguments:**

    - `source`: the head whose pattern is copied, counted from 0.

    **Raises:** `NotationError` for a head that the model does not have.
    """

    hook: ClassVar[str] = "attn.hook_pattern"

    source: int

    def __post_init__(self) -> None:
        RowEdit.__post_init__(self)
        check_heads(self.source)
        by_number = not isinstance(self.heads, str | TopHeads)
        if by_number and set(heads_of(self.heads) or ()) == {self.source}:
            raise NotationError(f"CopyHead({self.source}) onto itself changes nothing")

    @override
    def fit(self, sizes: Sizes) -> None:
        RowEdit.fit(self, sizes)
        check_heads(self.source, sizes.n_heads)

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        heads = heads_in(site, self.heads, value)
        if heads is None:
            heads = heads_at(site, None, value.shape[1])
        return copy_head(value, self.source, heads, site.queries(self.rows))
