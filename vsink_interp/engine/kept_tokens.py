"""The tokens that remain in a shortened KV cache, and the mapping between its slots and tokens.

Of 8 tokens a cache kept 4, and token 8 came later. Nodes count by tokens, attention by slots:

```text
token   0  1  2  3  4  5  6  7  8
kept    x     x        x  x     x
slot    0     1        2  3     4      narrow: tokens -> slots, spread: slots -> tokens
```
"""

from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@runtime_checkable
class TokensAtHand(Protocol):
    """What the row program asks of a cache that lacks the keys of some tokens."""

    def n_tokens(self, n_keys: int) -> int:
        """The number of tokens when the cache has `n_keys` slots."""
        ...

    def spread(self, value: Tensor, dim: int, n_tokens: int, fill: float) -> Tensor:
        """Map a value over slots to one over tokens, with `fill` for tokens that are gone."""
        ...

    def narrow(self, value: Tensor, dim: int) -> Tensor:
        """Map a value over tokens to one over slots."""
        ...

    def gone(self, n_tokens: int) -> Bool[Tensor, "batch token"]:
        """The tokens whose keys are gone."""
        ...

    def mask(self, mask: Tensor | None, n_keys: int) -> Tensor | None:
        """The attention mask that transformers passes, over slots."""
        ...


@final
class KeptTokens:
    """The tokens that remain in a shortened cache.

    Keys are in token order and right-aligned; samples that keep fewer tokens than others have empty
    slots in front. All later tokens are kept.

    **Arguments:**

    - `keep`: which of the tokens read so far remain.
    """

    def __init__(self, keep: Bool[Tensor, "batch token"]) -> None:
        counts = keep.sum(-1).tolist()
        order = keep.int().argsort(stable=True, dim=-1)[:, keep.shape[1] - max(counts) :]
        self.filled: Bool[Tensor, "batch kept"] = keep.gather(1, order)
        self.tokens: Int[Tensor, "batch kept"] = order
        self.length = keep.shape[1]
        self.full = min(counts) == max(counts)
        self._places: tuple[int, Tensor] = (-1, order)
        self._gone: Bool[Tensor, "batch token"] = self.filled[:, :0]
        self._mask: tuple[Tensor | None, Tensor | None] = (None, None)

    def n_tokens(self, n_keys: int) -> int:
        """The number of tokens read when the cache has `n_keys` slots."""
        return self.length + n_keys - self.tokens.shape[1]

    def take(self, states: Tensor) -> Tensor:
        """The keys or values that remain, `batch kv_head token d_head`."""
        index = self.tokens[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3])
        return states.gather(2, index.to(states.device))

    def places(self, n_tokens: int) -> Int[Tensor, "batch key"]:
        """The token of every slot when `n_tokens` have been read; `n_tokens` for an empty slot.

        Computed once for all layers of a pass that keep the same tokens.
        """
        if self._places[0] != n_tokens:
            later = torch.arange(self.length, n_tokens, device=self.tokens.device)
            # Places that all samples fill need no spare token to stand for empty ones.
            known = self.tokens if self.full else self.tokens.masked_fill(~self.filled, n_tokens)
            whole = torch.cat([known, later.expand(len(known), -1)], 1)
            self._places = (n_tokens, whole)
        return self._places[1]

    def spread(self, value: Tensor, dim: int, n_tokens: int, fill: float) -> Tensor:
        """A value over cache slots as one over tokens; `fill` where a key is gone."""
        index, wide = _along(self.places(n_tokens), value, dim), [*value.shape]
        wide[dim] = n_tokens + (not self.full)
        return value.new_full(wide, fill).scatter_(dim, index, value).narrow(dim, 0, n_tokens)

    def narrow(self, value: Tensor, dim: int) -> Tensor:
        """A value over tokens as one over cache slots; 0 in empty slots."""
        index, shape = _along(self.places(value.shape[dim]), value, dim), [*value.shape]
        if self.full:
            return value.gather(dim, index)
        shape[dim] = 1
        return torch.cat([value, value.new_zeros(shape)], dim).gather(dim, index)

    def gone(self, n_tokens: int) -> Bool[Tensor, "batch token"]:
        """The tokens whose keys are gone; computed once per pass, as `places`."""
        if self._gone.shape[1] != n_tokens:
            found = torch.ones(
                len(self.tokens), n_tokens + 1, dtype=torch.bool, device=self.tokens.device
            )
            self._gone = found.scatter_(1, self.places(n_tokens), False)[:, :n_tokens]
        return self._gone

    def mask(self, mask: Tensor | None, n_keys: int) -> Tensor | None:
        """The attention mask of transformers, `batch 1 query token` or None, over cache slots."""
        if mask is None and self.full:
            return None
        if self._mask[0] is None or self._mask[0] is not mask:
            self._mask = (mask, self._masked(mask, n_keys))
        return self._mask[1]

    def _masked(self, mask: Tensor | None, n_keys: int) -> Tensor:
        n_tokens = self.n_tokens(n_keys)
        empty = (self.places(n_tokens) == n_tokens)[:, None, None]
        if mask is None:
            return ~empty
        batch = max(len(mask), len(empty))
        index = self.places(n_tokens).clamp(max=n_tokens - 1)[:, None, None]
        index = index.expand(batch, *mask.shape[1:3], -1)
        narrow = mask[..., :n_tokens].expand(batch, -1, -1, -1).gather(-1, index)
        hidden = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        return narrow.masked_fill(empty, hidden)


@final
@dataclass(frozen=True)
class Window:
    """The tokens that a sliding window still holds: the last ones, the same in every sample.

    Has the methods of `KeptTokens`, so that nodes also see all tokens here.

    **Arguments:**

    - `first`: the token of the first key.
    """

    first: int

    def n_tokens(self, n_keys: int) -> int:
        """The number of tokens read when the cache has `n_keys` slots."""
        return self.first + n_keys

    def spread(self, value: Tensor, dim: int, n_tokens: int, fill: float) -> Tensor:
        """A value over cache slots as one over tokens; `fill` where a key is gone."""
        shape = [*value.shape]
        shape[dim] = n_tokens - value.shape[dim]
        return torch.cat([value.new_full(shape, fill), value], dim)

    def narrow(self, value: Tensor, dim: int) -> Tensor:
        """A value over tokens as one over cache slots."""
        return value.narrow(dim, self.first, value.shape[dim] - self.first)

    def gone(self, n_tokens: int) -> Bool[Tensor, "1 token"]:
        """The tokens whose keys are gone."""
        return (torch.arange(n_tokens) < self.first)[None]

    def mask(self, mask: Tensor | None, n_keys: int) -> Tensor | None:
        """The attention mask of transformers, which is already over cache slots."""
        del n_keys
        return mask

    def whole(self, mask: Tensor | None) -> Tensor | None:
        """The attention mask of transformers, over tokens."""
        if mask is None:
            return None
        hidden = 0.0 if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        return self.spread(mask, -1, self.first + mask.shape[-1], hidden)


def _along(places: Int[Tensor, "batch key"], value: Tensor, dim: int) -> Tensor:
    """Slots as an index into `value`, whose first axis is the batch."""
    shape, wide = [1] * value.ndim, [*value.shape]
    shape[0], shape[dim] = places.shape
    wide[dim] = places.shape[1]
    return places.to(value.device).view(shape).expand(wide)
