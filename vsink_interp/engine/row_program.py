"""The row program: attention of one layer, computing explicitly only the rows that nodes need."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from nnsight.intervention.envoy import Envoy
from torch import Tensor, nn

from ..graph import HookPoint, find_hook
from ..kernels import add_mask, attend, attention_scores, log_total, softmax
from .gradients import through
from .hooked_model import HookedModel
from .kept_tokens import TokensAtHand
from .layer_nodes import LayerNodes
from .run_state import RunState, overlap

Base = Callable[..., tuple[Tensor, Tensor | None]]

ROT_Q, ROT_K, SCORES, PATTERN, Z = (
    find_hook(f"attn.hook_{name}") for name in ("rot_q", "rot_k", "attn_scores", "pattern", "z")
)
TILE_ELEMENTS = 2**20
"""How many entries of a pattern are held at once; longer spans of rows are split into tiles."""
LEAST_ROWS = 64
"""The minimum number of rows of a tile, because thin matrices multiply slowly."""

FEW = 3
"""Remaining keys are gathered (copied) if they are at most one in this many."""


@final
@dataclass(frozen=True, eq=False)
class RowProgram:
    """One call of attention in one layer.

    **Attributes:**

    - `hooked`: the model.
    - `module`: the attention module.
    - `run_state`: the run; None in a plain trace.
    - `nodes`: the nodes inside the attention of the layer.
    - `points`: nnsight's envoys of these hook points; empty if no trace waits for one.
    - `mask`, `scaling`: as transformers passes them to attention.
    - `hidden`: the entries that a boolean `mask` hides; None for other masks.
    - `kept`: the tokens of the cached keys, if some keys are gone; nodes see all tokens.
    - `sliding`: whether rows see only a window of tokens, so that a cut may leave them none.
    - `residual_scale`: the factor of the layer on what its heads add to the residual stream.
    - `learned_sinks`: the learned score of each head that joins the softmax and belongs to no key.
    """

    hooked: HookedModel
    module: nn.Module
    run_state: RunState | None
    nodes: LayerNodes
    points: Mapping[str, Envoy]
    mask: Tensor | None
    hidden: Tensor | None
    scaling: float
    kept: TokensAtHand | None = None
    sliding: bool = False
    residual_scale: float = 1.0
    learned_sinks: Tensor | None = None

    def serves(self, module: nn.Module, mask: Tensor | None, kept: TokensAtHand | None) -> bool:
        """Whether this is also the program of another pass: so it is in most decode steps."""
        same = self.module is module and self.mask is mask and self.kept is kept
        return same and not self.points

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, base: Base
    ) -> tuple[Tensor, Tensor | None]:
        """The output of attention, batch query head d_head, and what else the base returns.

        The model's own attention, the base, runs for all rows. Which rows are computed explicitly
        beside it, in a prompt of 72 tokens (4 of system, 64 of an image, 4 of the query) under
        `SegmentMass(rows="image query") | VAR()`:

        | rows | asked for by | pattern | output |
        |---|---|---|---|
        | 0 to 3 | nobody | not computed | the base's |
        | 4 to 67 | the probe | explicit, a tile of rows at a time | the base's |
        | 68 to 71 | probe and edit | explicit | edited pattern times V |

        So `needed` is 4 to 71, and `edited` 68 to 71. In a decode step both are the one row there
        is, and the base does not run. Where all that happens to a tile is that it loses most keys,
        the others are gathered, and no pattern over all keys is made.
        """
        n_tokens = self.kept.n_tokens(key.shape[2]) if self.kept else key.shape[2]
        rows = range(n_tokens - query.shape[2], n_tokens)
        if self.points or self.nodes.rotary:
            query = self._heads_last(ROT_Q, query, rows, rows)
            key = self._heads_last(ROT_K, key, range(rows.stop), rows)
        needed, edited = self._spans(rows)
        # Where every row is edited, as in decode, the model's own attention would be wasted.
        z, weights = (None, None) if edited == rows else base(query, key, value)
        whole = bool(self.points) or self.nodes.whole
        for tile in row_tiles(needed, query.shape[0] * query.shape[1] * rows.stop, whole):
            if spans := self._keys_left(tile, rows):
                part = self._gathered(query, key, value, tile, rows, spans)
                z, weights = _put(z, part, tile.start - rows.start, len(rows)), None
                continue
            pattern, written = self._pattern(query, key, value, tile, rows)
            keep = tile if written else overlap(tile, edited)
            if pattern.requires_grad and keep != tile and z is not None:
                # A gradient at the pattern flows only through what is computed from it.
                own = z[:, tile.start - rows.start : tile.stop - rows.start]
                part = through(own, attend(pattern, value))
                z = _put(z, part, tile.start - rows.start, len(rows))
            if keep:
                inside = slice(keep.start - tile.start, keep.stop - tile.start)
                part = pattern if keep == tile else pattern[:, :, inside]
                z = _put(z, attend(part, value), keep.start - rows.start, len(rows))
                weights = None
        assert z is not None  # noqa: S101 (either the base ran, or every row was edited)
        return self._through(Z, z, rows, rows)[0], weights

    def _heads_last(self, point: HookPoint, value: Tensor, rows: range, whole: range) -> Tensor:
        if not self.points and not self.nodes.at[point.name]:
            return value
        if point is ROT_K:  # else a hook function that writes in place would write into the cache
            value = value.clone()
        value = value.transpose(1, 2)
        if point is ROT_K and self.kept:
            value = self.kept.spread(value, 1, whole.stop, torch.nan)
            return self.kept.narrow(self._through(point, value, rows, whole)[0], 1).transpose(1, 2)
        return self._through(point, value, rows, whole)[0].transpose(1, 2)

    def _through(
        self,
        point: HookPoint,
        value: Tensor,
        rows: range,
        whole: range,
        extras: Mapping[str, Any] | None = None,
    ) -> tuple[Tensor, bool]:
        """A value after nnsight's point and the nodes, and whether a trace wrote it."""
        written = False
        if self.points:
            before, version = value, value._version
            value = self.points[point.name]._module(value)
            written = value is not before or value._version != version
        if self.run_state is not None:
            for number, node in self.nodes.at[point.name]:
                value = self.run_state.visit(
                    number, node, value, point, self._layer, rows, whole, extras
                )
        return value, written

    @property
    def _layer(self) -> int:
        return self.module.layer_idx  # ty: ignore[invalid-explicit-return]

    def _spans(self, rows: range) -> tuple[range, range]:
        """The rows that must be computed explicitly, and those that edits change."""
        none = range(rows.start, rows.start)
        state = self.run_state
        needed, edited = (none, none) if state is None else state.spans(self.nodes.numbered, rows)
        return rows if self.points else needed, edited

    def _keys_left(self, tile: range, rows: range) -> tuple[range, ...] | None:
        """The few keys to gather, where all that happens is that these rows lose the others."""
        other = self.kept or self.sliding or self.nodes.at[PATTERN.name]
        if self.run_state is None or other:
            return None
        removed = self.nodes.removed
        spans = self.run_state.keys_left(removed, tile, rows.stop) if removed else None
        few = spans is not None and FEW * sum(map(len, spans)) <= rows.stop
        return spans if few else None

    def _gathered(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        tile: range,
        rows: range,
        spans: tuple[range, ...],
    ) -> Tensor:
        """The output of a tile of rows that see these keys alone."""
        local = slice(tile.start - rows.start, tile.stop - rows.start)
        scores = attention_scores(query[:, :, local], _pick(key, spans, 2), self.scaling)
        if self.mask is not None:
            mask = _pick(self.mask[..., local, :], spans, -1)
            scores = add_mask(scores, mask, torch.empty(0))
        elif tile.start < rows.stop - 1:
            places = torch.cat([torch.arange(s.start, s.stop) for s in spans])
            positions = torch.arange(tile.start, tile.stop)
            later = (places > positions[:, None]).to(scores.device)
            scores = scores.masked_fill(later, -torch.inf)
        pattern = softmax(scores, learned_sinks=self.learned_sinks)
        return attend(pattern, _pick(value, spans, 2))

    def _pattern(
        self, query: Tensor, key: Tensor, value: Tensor, tile: range, rows: range
    ) -> tuple[Tensor, bool]:
        """The pattern of a tile of rows after all nodes, and whether a trace wrote it."""
        local = slice(tile.start - rows.start, tile.stop - rows.start)
        seen = tile.stop if self._only_causal() else rows.stop
        if len(tile) < query.shape[2]:
            query = query[:, :, local]
        if seen < key.shape[2]:
            key = key[:, :, :seen]
        scores = attention_scores(query, key, self.scaling)
        if self.kept:
            scores = self.kept.spread(scores, -1, rows.stop, -torch.inf)
        scores = self._masked(scores, tile, local, last=tile.start == rows.stop - 1)
        extras = self._extras(value, rows.stop)
        scores, first = self._edited_scores(scores, tile, rows, extras)
        mask = self.mask if self._may_see_nothing(tile) else None
        rows_mask = None if mask is None else mask[..., local, :]
        pattern = softmax(scores, rows_mask, self.learned_sinks)
        if self.nodes.needs_total:
            extras = {**extras, "total": log_total(scores)}
        if seen < rows.stop and not self.nodes.sums_keys:
            pattern = nn.functional.pad(pattern, (0, rows.stop - seen))
        pattern, second = self._through(PATTERN, pattern, tile, rows, extras)
        return self._at_keys(pattern), first or second

    def _only_causal(self) -> bool:
        """Whether no row sees a key after its own, and nobody asks for the scores of such keys."""
        return not (self.mask is not None or self.kept or self.points or self.nodes.at[SCORES.name])

    def _masked(self, scores: Tensor, tile: range, local: slice, *, last: bool) -> Tensor:
        if self.hidden is not None:
            hidden = self.hidden[..., local, : scores.shape[-1]]
            return scores.masked_fill(hidden, -torch.inf)
        if self.mask is None and last:
            return scores
        positions = torch.arange(tile.start, tile.stop, device=scores.device)
        if self.mask is not None:
            return add_mask(scores, self.mask[..., local, :], positions)
        # In place, for the scores are our own; keys before the tile are seen by all of it.
        late = scores[..., tile.start :]
        late.copy_(add_mask(late, None, positions - tile.start))
        return scores

    def _edited_scores(
        self, scores: Tensor, tile: range, rows: range, extras: Mapping[str, Any]
    ) -> tuple[Tensor, bool]:
        if self.run_state is None or not self._may_blind():
            return self._through(SCORES, scores, tile, rows, extras)
        before = _blind(scores)
        scores, written = self._through(SCORES, scores, tile, rows, extras)
        self.run_state.see_blind(self._layer, _blind(scores) & ~before)
        return scores, written

    def _may_blind(self) -> bool:
        # What the cache has lost adds to what edits cut.
        lost = self.kept is not None or self.sliding
        return self.nodes.may_blind or (self.nodes.edits_scores and lost)

    def _may_see_nothing(self, tile: range) -> bool:
        return self.run_state is None or self.run_state.pads(tile)

    def _at_keys(self, pattern: Tensor) -> Tensor:
        """The pattern at the keys that there are, edits checked for giving mass to others."""
        if not self.kept:
            return pattern
        if self.run_state is not None and self.nodes.edits:
            gone = self.kept.gone(pattern.shape[-1]).to(pattern.device)[:, None, None]
            self.run_state.see_lost(self._layer, (pattern != 0) & gone)
        return self.kept.narrow(pattern, -1)

    def _extras(self, value: Tensor, n_tokens: int) -> dict[str, Any]:
        if not self.nodes.needs_values:
            return {}
        assert self.run_state is not None  # noqa: S101 (without it there are no nodes)
        projection: Any = self.module.o_proj
        n_heads = self.hooked.n_heads["head"]
        width = n_heads * value.shape[-1]
        output = self.hooked.linear_map(projection, width, value, self.run_state.asked)
        if self.kept:
            value = self.kept.spread(value, 2, n_tokens, 0.0)
        weight = output.by_head(n_heads)
        scaled = weight if self.residual_scale == 1.0 else weight * self.residual_scale
        return {"value": value, "weight": scaled}


def _blind(scores: Tensor) -> Tensor:
    return scores.isneginf().all(-1)


def _pick(value: Tensor, spans: tuple[range, ...], dim: int) -> Tensor:
    """The parts of a value along one dimension; a view where they are one."""
    parts = [value.narrow(dim, span.start, len(span)) for span in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def row_tiles(span: range, per_row: int, whole: bool) -> Iterator[range]:
    """A span of rows in tiles of about `TILE_ELEMENTS`, of `per_row` each; at once if `whole`."""
    size = len(span) if whole else max(LEAST_ROWS, TILE_ELEMENTS // per_row)
    for start in range(span.start, span.stop, size or 1):
        yield range(start, min(start + size, span.stop))


def _put(z: Tensor | None, part: Tensor, first: int, n_rows: int) -> Tensor:
    """z, batch query head d_head, with `part` from row `first` on."""
    if part.shape[1] == n_rows:
        return part
    if z is None:
        z = part.new_empty(part.shape[0], n_rows, *part.shape[2:])
    if z.requires_grad or part.requires_grad:
        return torch.cat([z[:, :first], part, z[:, first + part.shape[1] :]], 1)
    z[:, first : first + part.shape[1]] = part
    return z
