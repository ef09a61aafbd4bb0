"""Heads that are chosen in every row, by where they attend at that moment."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import index
from typing import Any, final

from ..errors import NotationError
from ..tokens import parse_group


@final
@dataclass(frozen=True)
class TopHeads:
    """The heads that give a group of tokens the most attention, chosen anew in every row and layer.

    As SPIN chooses heads (Sarkar et al. 2025, arXiv 2505.16411): by the attention pattern that the
    row has where the edit acts, so after the edits before it. A row in which no head gives the
    group any attention is left as it is.

    ```python
    vi.ScaleHeads(0.08, heads=~vi.TopHeads("image", 3))       # all heads but those three, damped
    vi.AddScores("image", 1.0, heads=vi.TopHeads("query", 2)) # the two that read the text most
    ```

    **Arguments:**

    - `group`: the tokens whose attention is compared.
    - `k`: how many heads of a layer.
    - `others`: all heads but those; written `~TopHeads(group, k)`.

    **Raises:** `NotationError` for a group that cannot be read, or `k` below 1. When run:
    `NotationError` if a layer has no more than `k` heads; `LayoutError` if the prompt lacks the
    group.
    """

    group: str
    k: int
    others: bool = False

    def __post_init__(self) -> None:
        parse_group(self.group)
        if isinstance(self.k, bool) or not hasattr(self.k, "__index__") or index(self.k) < 1:
            raise NotationError(f"TopHeads({self.group!r}, {self.k!r}): k is a number of heads")
        object.__setattr__(self, "k", index(self.k))

    def __invert__(self) -> "TopHeads":
        """All heads but these."""
        return replace(self, others=not self.others)

    @classmethod
    def loaded(cls, saved: Any) -> "TopHeads":
        """From the fields that JSON holds.

        **Raises:** `NotationError` for other fields.
        """
        kinds = {"group": str, "k": int, "others": bool}
        fits = isinstance(saved, Mapping) and {"group", "k"} <= saved.keys() <= kinds.keys()
        if not fits or not all(type(value) is kinds[name] for name, value in saved.items()):
            raise NotationError(
                f"heads={saved!r} are not the fields of a TopHeads: group, a text, k, a whole "
                "number, and others, true or false"
            )
        return cls(**saved)
