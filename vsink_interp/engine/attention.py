"""The local attention binding: the model's own attention, with explicit rows where asked for.

While a run is active, an attention function is registered with transformers, next to a mask
function (without which padding masks vanish silently), and the decoder's configuration names it.
Blocks without nodes go straight to the model's own function; in the others only the rows that a
node asks for are computed explicitly: scores, mask, score edits, softmax, pattern edits, values.
"""

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..errors import CapabilityError
from ..graph import Edit, Node
from ..hooks import HookPoint, find_hook
from ..kernels import add_mask, attend, attention_scores, softmax
from .progress import Progress
from .taps import head_weight
from .wrapped import Wrapped

Numbered = tuple[tuple[int, Node], ...]

ROT_Q, ROT_K, SCORES, PATTERN, Z = (
    find_hook(f"attn.hook_{name}") for name in ("rot_q", "rot_k", "attn_scores", "pattern", "z")
)
BLOCK_ELEMENTS = 2**24
"""The most entries of a pattern held at once; longer spans of rows are computed in blocks."""

_names = count()


@final
class AttentionBinding:
    """One run's attention function.

    **Arguments:**

    - `wrapped`: the model.
    - `progress`: the run's plan and state; None for a plain trace, where only nnsight's own
        reads and writes of the hook points matter.
    """

    def __init__(self, wrapped: Wrapped, progress: Progress | None) -> None:
        self.wrapped = wrapped
        self.progress = progress
        self.config = wrapped.layers[0].self_attn.config
        self.base_name: str = self.config._attn_implementation
        plan = progress.plan if progress else None
        self.nodes: list[dict[str, Numbered]] = [
            {
                point.name: plan.at(point.template, layer) if plan else ()
                for point in (ROT_Q, ROT_K, SCORES, PATTERN, Z)
            }
            for layer in range(wrapped.n_layers)
        ]

    @contextmanager
    def armed(self) -> Generator[None]:
        """Register the function, point the decoder at it, and undo both whatever happens."""
        name = f"vsink_interp_{next(_names)}"
        if self.base_name not in ALL_MASK_ATTENTION_FUNCTIONS:
            raise CapabilityError(
                f"attention {self.base_name!r} is not supported; load the model with "
                "attn_implementation='sdpa' or 'eager'"
            )
        ALL_ATTENTION_FUNCTIONS[name] = self
        ALL_MASK_ATTENTION_FUNCTIONS[name] = ALL_MASK_ATTENTION_FUNCTIONS[self.base_name]
        self.config._attn_implementation = name
        try:
            yield
        finally:
            self.config._attn_implementation = self.base_name
            del ALL_ATTENTION_FUNCTIONS[name], ALL_MASK_ATTENTION_FUNCTIONS[name]

    def base(self, module: nn.Module) -> Callable[..., tuple[Tensor, Tensor | None]]:
        """The model's own attention function."""
        eager: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        return ALL_ATTENTION_FUNCTIONS.get_interface(self.base_name, eager)

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Attention as transformers calls it; the result has shape batch query head d_head."""
        layer: int = module.layer_idx  # ty: ignore[invalid-assignment]
        nodes = self.nodes[layer]
        awaited = self._awaited(layer)
        base = self.base(module)
        if not awaited and not any(nodes.values()):
            return base(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        call = _Call(self, module, layer, attention_mask, scaling or query.shape[-1] ** -0.5)
        rows = range(key.shape[2] - query.shape[2], key.shape[2])
        query, key = call.rotate(query, key, rows)
        z, weights = base(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        z = call.rows(query, key, value, z, rows, awaited)
        return call.through(Z, z, rows, key.shape[2]), weights

    def _awaited(self, layer: int) -> bool:
        parked = self.wrapped.nnsight.interleaver.parked
        return bool(parked) and any(
            f"{envoy.path}.{side}" in parked
            for envoy in self.wrapped.points[layer].values()
            for side in ("input", "output")
        )


@final
class _Call:
    """One call of attention in one block."""

    def __init__(
        self,
        binding: AttentionBinding,
        module: nn.Module,
        layer: int,
        mask: Tensor | None,
        scaling: float,
    ) -> None:
        self.binding = binding
        self.progress = binding.progress
        self.nodes = binding.nodes[layer]
        self.points = binding.wrapped.points[layer]
        self.module = module
        self.layer = layer
        self.mask = mask
        self.scaling = scaling

    def through(
        self,
        point: HookPoint,
        value: Tensor,
        rows: range,
        n_keys: int,
        extras: dict[str, Any] | None = None,
    ) -> Tensor:
        """Send a value through nnsight's point, then through the nodes of a hook point."""
        value = self.points[point.name]._module(value)
        for number, node in self.nodes[point.name]:
            assert self.progress is not None  # noqa: S101 (nodes come with a run)
            value = self.progress.visit(
                number, node, value, point, self.layer, rows, n_keys, extras
            )
        return value

    def rotate(self, query: Tensor, key: Tensor, rows: range) -> tuple[Tensor, Tensor]:
        """Queries and keys after their own hook points."""
        n_keys = key.shape[2]
        query = self.through(ROT_Q, query.transpose(1, 2), rows, n_keys).transpose(1, 2)
        key = self.through(ROT_K, key.transpose(1, 2), range(n_keys), n_keys).transpose(1, 2)
        return query, key

    def rows(
        self, query: Tensor, key: Tensor, value: Tensor, z: Tensor, rows: range, awaited: bool
    ) -> Tensor:
        """The output of attention with the rows that nodes change computed explicitly."""
        numbered = (*self.nodes[SCORES.name], *self.nodes[PATTERN.name])
        edited = self._span([n for _, n in numbered if isinstance(n, Edit)], rows)
        needed = rows if awaited else self._span([node for _, node in numbered], rows)
        if not needed:
            return z
        whole = awaited or any(node.whole for _, node in numbered)
        for block in _blocks(needed, query.shape[0] * query.shape[1] * key.shape[2], whole):
            pattern, touched = self._pattern(query, key, value, block, rows)
            keep = block if touched else _overlap(block, edited)
            if keep:
                part = pattern[:, :, keep.start - block.start : keep.stop - block.start]
                z = _put(z, attend(part, value), keep.start - rows.start)
        return z

    def _span(self, nodes: list[Node], rows: range) -> range:
        spans = [self.progress.span(node, rows) for node in nodes] if self.progress else []
        spans = [span for span in spans if len(span)]
        if not spans:
            return range(rows.start, rows.start)
        return range(min(s.start for s in spans), max(s.stop for s in spans))

    def _pattern(
        self, query: Tensor, key: Tensor, value: Tensor, block: range, rows: range
    ) -> tuple[Tensor, bool]:
        """The pattern of a block of rows after all edits, and whether a trace changed it."""
        local = slice(block.start - rows.start, block.stop - rows.start)
        mask = self.mask if self.mask is None else self.mask[..., local, :]
        positions = torch.arange(block.start, block.stop, device=query.device)
        scores = attention_scores(query[:, :, local], key, self.scaling)
        scores = add_mask(scores, mask, positions)
        extras = self._extras(value)
        before = scores, scores._version
        scores = self.through(SCORES, scores, block, key.shape[2], extras)
        touched = self._changed(before, scores)
        pattern = softmax(scores, mask)
        before = pattern, pattern._version
        pattern = self.through(PATTERN, pattern, block, key.shape[2], extras)
        return pattern, touched or self._changed(before, pattern)

    def _changed(self, before: tuple[Tensor, int], after: Tensor) -> bool:
        # Nodes that edit are known by their span; this finds what a plain trace wrote.
        return self.progress is None and (after is not before[0] or after._version != before[1])

    def _extras(self, value: Tensor) -> dict[str, Any]:
        nodes = (*self.nodes[SCORES.name], *self.nodes[PATTERN.name])
        if not any(node.needs_values for _, node in nodes):
            return {}
        projection = self.module.o_proj
        heads = self.binding.wrapped.n_heads["head"]
        return {"value": value, "weight": head_weight(projection, heads)}  # ty: ignore[invalid-argument-type]


def _blocks(span: range, per_row: int, whole: bool) -> Iterator[range]:
    size = len(span) if whole else max(1, BLOCK_ELEMENTS // per_row)
    for start in range(span.start, span.stop, size):
        yield range(start, min(start + size, span.stop))


def _overlap(left: range, right: range) -> range:
    return range(max(left.start, right.start), min(left.stop, right.stop))


def _put(z: Tensor, part: Tensor, first: int) -> Tensor:
    """z with rows `first` and on replaced; batch query head d_head."""
    if part.shape[1] == z.shape[1]:
        return part
    if z.requires_grad or part.requires_grad:
        return torch.cat([z[:, :first], part, z[:, first + part.shape[1] :]], 1)
    z[:, first : first + part.shape[1]] = part
    return z
