"""Ablation: activations replaced by zero, by their mean, or by those of other tokens.

Mean ablation as in Wang et al. (2022), arXiv 2211.00593; resampled ablation as in causal scrubbing
(Chan et al. 2022). On what each of them measures: Zhang and Nanda (2024), arXiv 2309.16042.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from math import prod
from typing import Any, final

import torch
from jaxtyping import Int
from torch import Tensor
from typing_extensions import override

from ..errors import CapabilityError, NotationError, ResultError, unknown
from ..graph import (
    HOOKS,
    Edit,
    Heads,
    HookPoint,
    Layers,
    Site,
    Sizes,
    resolve_layers,
    settle,
)
from ..results import Recorded, Run
from ..tokens import CODE, PAD, TokenLayout, parse_fixed_group
from .heads import check_heads, count_heads, heads_along
from .numbers import Numbers
from .source import taken

WAYS = ("zero", "mean", "resample")
DRAWS = 16
"""How many tokens a resampled ablation draws from."""


@final
@dataclass(frozen=True)
class Ablate(Edit):
    """Replace the value of a hook point at some tokens: heads, MLPs, whole layers or the stream.

    ```python
    vi.Ablate("attn.hook_z", 5, heads=[0, 3])                        # two heads, to zero
    seen = lmm.run(images, prompts, vi.probes.Activation("hook_mlp_out"))
    seen_heads = lmm.run(images, prompts, vi.probes.Activation("attn.hook_z"))
    vi.Ablate("hook_mlp_out", "4:", by="mean", source=seen)          # MLPs, to their mean
    vi.Ablate("attn.hook_z", 5, by="resample", source=seen_heads)    # to those of other tokens
    ```

    A Patch puts the value of the *same* token of one other run in place, an ablation one that knows
    nothing of the token. Where an average would mix kinds of tokens, as at massive activations,
    say which by `rows`: the source is averaged over these rows too.

    **Arguments:**

    - `hook`: a hook point with a row per token: `attn.hook_z` for heads, `mlp.hook_post` for
        neurons, `hook_attn_out`, `hook_mlp_out`, `hook_resid_post`...
    - `layers`: the layers, counted from 0.
    - `by`: `"zero"`, `"mean"` or `"resample"`.
    - `source`: for the last two, where values are taken from: a run of a batch of prompts that
        recorded this hook point with `probes.Activation`, or several runs, or records (of a record
        alone every row counts). The node keeps the mean of each layer, or 16 tokens of each; so
        JSON carries it.
    - `rows`: the tokens that are ablated.
    - `heads`: the heads, where the hook point has heads; all by default.
    - `seed`: which tokens are drawn, and which is put where. Each token of a prompt gets one of
        those drawn, all generated ones share one.

    **Raises:** `NotationError` for a hook point, group or way that cannot be ablated, or a layer
    that was not recorded; `ResultError` for a source without such rows. When run:
    `CapabilityError` if the source is of another model.
    """

    hook: str
    layers: Layers = ":"
    _: KW_ONLY
    by: str = "zero"
    source: Any = ()
    rows: str = "all"
    heads: Heads = None
    seed: int = 0

    def __post_init__(self) -> None:
        settle(self)
        _refuse_odd(self.point, self.by)
        check_heads(self.heads)
        if self.heads is not None and not {"head", "kv_head"} & set(self.point.axes):
            raise NotationError(f"{self.hook!r} has no heads: {self.point.axes}")
        parse_fixed_group(self.rows, "the rows of an ablation")
        if (self.by == "zero") == bool(self.source != ()):
            raise NotationError(
                f"by={self.by!r} with source={self.source!r}: 'mean' and 'resample' need a source, "
                "a run that recorded this hook point, and 'zero' takes none"
            )
        object.__setattr__(self, "source", self._bank())

    def _bank(self) -> tuple[tuple[int | None, tuple[Numbers, ...]], ...]:
        """By layer the vectors that values are taken from: one mean, or the tokens drawn."""
        given = self.source
        if isinstance(given, Run | Recorded):
            given = (given,)
        if given and not any(isinstance(one, Run | Recorded) for one in given):
            # As it was saved: vectors by layer.
            return tuple((layer, tuple(map(Numbers, vectors))) for layer, vectors in given)
        rows = _rows_of(self.point, given, self.rows)
        return tuple((layer, self._kept(torch.cat(found))) for layer, found in rows.items())

    def _kept(self, found: Tensor) -> tuple[Numbers, ...]:
        """The mean of some rows, or those that are drawn from them."""
        if self.by == "mean":
            return (Numbers(found.double().mean(0).tolist()),)
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(len(found), generator=generator)[:DRAWS]
        return tuple(Numbers(row) for row in found[chosen].tolist())

    @property
    @override
    def targets(self) -> tuple[str, bool] | None:
        return self.rows, False

    @override
    def resolved_layers(self, n_layers: int) -> tuple[int, ...]:
        named = resolve_layers(self.layers, n_layers)
        known = tuple(layer for layer, _ in self.source)
        if self.by != "zero" and (lacking := sorted({*named} - {*known})):
            raise NotationError(f"layers {lacking} were not recorded; the source has {known}")
        return named

    @override
    def fit(self, sizes: Sizes) -> None:
        check_heads(self.heads, count_heads(self.point, sizes))

    @override
    def check(self, layout: TokenLayout, *, generates: bool) -> None:
        layout.check_group(self.rows, generates=generates)

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        where = site.queries(self.rows)[(...,) + (None,) * (value.ndim - 2)]
        if self.heads is not None:
            where = where & heads_along(site, self.heads, value)
        return torch.where(where, self._new(value, site), value)

    def _new(self, value: Tensor, site: Site) -> Tensor:
        if self.by == "zero":
            return torch.zeros_like(value)
        # By identity: to hash thousands of numbers costs what is to be saved.
        bank = site.once(("ablate", id(self)), lambda _: self._vectors(value, site.layer))
        if self.by == "mean":
            return bank[0]
        drawn = site.once(("ablate draws", id(self)), self._drawn)
        return bank[drawn[:, site.first_row : site.first_row + site.n_rows]]

    def _vectors(self, like: Tensor, layer: int | None) -> Tensor:
        """What values are taken from at one layer, each with the shape of a row."""
        vectors, shape = dict(self.source)[layer], like.shape[2:]
        if len(vectors[0]) != prod(shape):
            raise CapabilityError(
                f"an ablation of {self.point.at(layer)!r} has {len(vectors[0])} numbers a row, the "
                f"model {prod(shape)}; its source must be a run of the same model"
            )
        return torch.tensor(vectors, dtype=like.dtype, device=like.device).view(-1, *shape)

    def _drawn(self, whole: Site) -> Int[Tensor, "batch token"]:
        """Which vector each token gets: by its place in its own prompt, not in the batch."""
        segments = whole.layout.segments
        new = segments == CODE["generated"]
        places = (segments != PAD).cumsum(-1) - 1
        places = torch.where(new, (~new & (segments != PAD)).sum(-1, keepdim=True), places)
        layer = 0 if whole.layer is None else whole.layer
        generator = torch.Generator().manual_seed(1000 * self.seed + layer)
        count = len(dict(self.source)[whole.layer])
        draws = torch.randint(count, (segments.shape[1] + 1,), generator=generator)
        return draws[places.clamp_min(0)].to(whole.masks.device)


def _rows_of(
    point: HookPoint, sources: Sequence[Run | Recorded], rows: str
) -> dict[int | None, list[Tensor]]:
    """By layer the recorded rows of a group, each a vector."""
    found: dict[int | None, list[Tensor]] = {}
    for given in sources:
        source = taken(point, given)
        for layer, values in source.values.items():
            flat = values.flatten(2).float()
            if source.layout is None:
                kept = flat.flatten(0, 1)
            else:
                kept = flat[source.layout.mask(rows)[:, list(source.queries)]]
            if not len(kept):
                raise ResultError(
                    f"the source has no row of {rows!r}: record probes.Activation({point.name!r}, "
                    f"rows={rows!r})"
                )
            found.setdefault(layer, []).append(kept)
    return found


def _refuse_odd(point: HookPoint, by: str) -> None:
    if by not in WAYS:
        raise NotationError(unknown("way to ablate", by, WAYS))
    if point.axes[:2] != ("batch", "query"):
        legal = [p.name for p in HOOKS if p.axes[:2] == ("batch", "query")]
        hint = "; to cut attention use Knockout" if "key" in point.axes else ""
        raise NotationError(
            f"Ablate({point.name!r}): its value has axes {point.axes}, no vector per token{hint}. "
            f"These have: {', '.join(sorted(set(legal)))}"
        )
