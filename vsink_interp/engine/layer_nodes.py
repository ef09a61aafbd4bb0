"""`LayerNodes`: the nodes inside the attention of one layer, and what they need of its rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from ..graph import Edges, Edit, find_hook
from .edges import may_blind, removed_by
from .run_state import Numbered

ROTATED = tuple(find_hook(f"attn.hook_{name}").name for name in ("rot_q", "rot_k"))
SCORES, PATTERN = (find_hook(f"attn.hook_{name}").name for name in ("attn_scores", "pattern"))


@final
@dataclass(frozen=True, slots=True, eq=False)
class LayerNodes:
    """Worked out once a run, for every pass asks it again.

    **Attributes:**

    - `at`: the nodes of each hook point.
    - `some`: whether there are any.
    - `numbered`: those of scores and pattern.
    - `rotary`: whether some act on rotated queries or keys.
    - `whole`: whether one of these must see all rows at once.
    - `needs_values`, `needs_total`: whether they need values and output weights, or row totals.
    - `sums_keys`: whether those of the pattern only sum over keys.
    - `edits`: whether there are edits among `numbered`.
    - `edits_scores`, `may_blind`: whether edits change scores, and whether these may leave a row no
        key.
    - `removed`: the edges that those of the scores remove, if that is all they do.
    """

    at: Mapping[str, Numbered]
    some: bool
    numbered: Numbered
    rotary: bool
    whole: bool
    needs_values: bool
    needs_total: bool
    sums_keys: bool
    edits: bool
    edits_scores: bool
    may_blind: bool
    removed: tuple[Edges, ...] | None

    @classmethod
    def of(cls, at: Mapping[str, Numbered]) -> "LayerNodes":
        """What the nodes of a layer need."""
        scores, pattern = at[SCORES], at[PATTERN]
        numbered = (*scores, *pattern)
        changes = [node for _, node in scores if isinstance(node, Edit)]
        return cls(
            at=at,
            some=any(at.values()),
            numbered=numbered,
            rotary=any(at[name] for name in ROTATED),
            whole=any(node.whole for _, node in numbered),
            needs_values=any(node.needs_values for _, node in numbered),
            needs_total=any(node.needs_total for _, node in pattern),
            sums_keys=all(node.sums_keys for _, node in pattern),
            edits=any(isinstance(node, Edit) for _, node in numbered),
            edits_scores=bool(changes),
            may_blind=may_blind(changes),
            removed=removed_by(node for _, node in scores),
        )
