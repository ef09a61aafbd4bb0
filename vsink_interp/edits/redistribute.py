"""Move attention from one group of keys to another."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from ..errors import LayoutError, NotationError
from ..graph import Site, TopHeads
from ..kernels import move_mass
from ..tokens import TokenLayout, parse_group
from .heads import chosen_in, heads_at
from .row_edit import RowEdit


@final
@dataclass(frozen=True)
class Redistribute(RowEdit):
    """Move a share of each row's attention from one group of keys to another, in proportion.

    Acts after the softmax; every row keeps its sum. `VAR` chooses heads by where they attend;
    this edit acts on the heads that you name. A row that gives `target` nothing is left unchanged.

    ```python
    vi.Redistribute("sink & image", "image & ~sink", p=0.6, layers="2:")
    ```

    **Arguments:**

    - `source`: the keys that lose attention, for instance `"sink"`.
    - `target`: the keys that gain it, in proportion to their attention; keys in both groups count
        as source.
    - `p`: the share moved, 0 to 1.

    **Raises:** `NotationError` for a group that cannot be read or a share outside 0 to 1. When
    run: `LayoutError` if the prompt lacks a segment.
    """

    hook: ClassVar[str] = "attn.hook_pattern"

    source: str
    target: str
    p: float

    def __post_init__(self) -> None:
        RowEdit.__post_init__(self)
        parse_group(self.source)
        parse_group(self.target)
        if not 0 <= self.p <= 1:
            raise NotationError(f"p is a share from 0 to 1; got {self.p}")

    @property
    @override
    def key_groups(self) -> tuple[str, ...]:
        return self.source, self.target

    @override
    def check(self, layout: TokenLayout, *, generates: bool) -> None:
        RowEdit.check(self, layout, generates=generates)
        words = parse_group(self.source).words | parse_group(self.target).words
        if "sink" in words or (generates and "generated" in words):
            return
        if not (layout.mask(self.target) & ~layout.mask(self.source)).any():
            raise LayoutError(
                f"{self.target!r} has no token beside those of {self.source!r}, so nothing moves; "
                "keys of both groups count as source"
            )

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        terms = site.grown(self, self._terms, partial(self._append, site))[..., : site.n_keys]
        least = 1e-37
        if isinstance(self.heads, TopHeads):
            least = torch.where(chosen_in(site, self.heads, value), 1e-37, torch.inf)
        elif self.heads is not None:
            least = site.once(("least", self.heads), partial(self._least, value.shape[1]))
        return move_mass(value, terms, self.p, site.rows(self.rows), least)

    def _terms(self, whole: Site) -> Float[Tensor, "batch term key"]:
        source = whole.keys(self.source)
        return torch.stack([source, whole.keys(self.target) & ~source], 1).float()

    def _append(self, site: Site, terms: Float[Tensor, "batch term key"]) -> None:
        """Update the masks for new tokens that may be sinks."""
        source, target = parse_group(self.source), parse_group(self.target)
        gives = {sink: source.takes_generated(sink=sink) for sink in (True, False)}
        takes = {s: target.takes_generated(sink=s) and not gives[s] for s in (True, False)}
        for term, belongs in enumerate((gives, takes)):
            if belongs[True] != belongs[False]:
                new = terms[:, term, site.first_row : site.n_keys]
                site.sink_rows(None, new, flipped=belongs[False])

    def _least(self, n_heads: int, whole: Site) -> Float[Tensor, "head 1"]:
        """The lowest share for the target at which a row is edited; unreachable in other heads."""
        heads = heads_at(whole, self.heads, n_heads)
        return torch.where(heads, 1e-37, torch.inf)[:, None]
