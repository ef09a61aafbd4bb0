"""Bases of probes that record query rows, and of those that also group keys."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from ..errors import LayoutError, NotationError
from ..graph import Layers, Probe, Site, freeze, settle
from ..tokens import HISTORY, SEGMENTS, TokenLayout, grows_by_sinks, parse_fixed_group, parse_group


@dataclass(frozen=True)
class RowProbe(Probe):
    """A probe of selected query rows.

    **Arguments:**

    - `rows`: the group of tokens whose rows are recorded; the record covers the smallest span
        that holds them all.
    - `layers`: the layers, counted from 0.
    """

    rows: str = "query generated"
    layers: Layers = ":"

    def __post_init__(self) -> None:
        settle(self)
        parse_fixed_group(self.rows, "the rows of a probe")

    @property
    @override
    def targets(self) -> tuple[str, bool] | None:
        return self.rows, False

    @override
    def check(self, layout: TokenLayout, *, generates: bool) -> None:
        layout.check_group(self.rows, generates=generates)


def grown_with_values(
    site: Site, key: Any, read: Callable[[Float[Tensor, "batch kv_head key d_head"]], Tensor]
) -> Float[Tensor, "batch head key"]:
    """`read` applied to the value of every key; decode steps apply it to the new key only.

    **Arguments:**

    - `key`: as `Site.once` takes it.
    """
    values = site.extras["value"]

    def of_all(whole: Site) -> Float[Tensor, "batch head key"]:
        return torch.nn.functional.pad(read(values), (0, whole.n_keys - values.shape[2]))

    def append(known: Float[Tensor, "batch head key"]) -> None:
        # Cached values never change; keys dropped from the cache get no attention.
        known[..., site.first_row : site.n_keys] = read(values[:, :, site.first_row :])

    return site.grown(key, of_all, append)[..., : site.n_keys]


@dataclass(frozen=True)
class GroupProbe(RowProbe):
    """A probe of patterns by groups of keys: `[layer batch head query segment]`.

    **Arguments:**

    - `groups`: the groups of keys; the five segments by default.
    """

    hook: ClassVar[str] = "attn.hook_pattern"
    axes: ClassVar[tuple[str, ...]] = ("batch", "head", "query", "segment")

    _: KW_ONLY
    groups: tuple[str, ...] = SEGMENTS

    def __post_init__(self) -> None:
        RowProbe.__post_init__(self)
        freeze(self, "groups")
        if isinstance(self.groups, str) or not self.groups:
            raise NotationError(
                f"{type(self).__name__}: groups is a tuple of at least one group, as in "
                f"groups=('image',); segments are: {', '.join(SEGMENTS)}"
            )
        for group in self.groups:
            parse_group(group)

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """The names along the axis `segment`."""
        return {"segment": self.groups}

    @property
    @override
    def needs_phi(self) -> bool:
        return any("sink" in parse_group(group).words for group in self.groups)

    @cached_property
    @override
    def needs_new_phi(self) -> bool:  # asked for in every layer of every pass
        return any(grows_by_sinks(group) for group in self.groups)

    @override
    def check(self, layout: TokenLayout, *, generates: bool) -> None:
        RowProbe.check(self, layout, generates=generates)
        if self.groups == SEGMENTS and bool(layout.mask(HISTORY).any()):
            raise LayoutError(
                f"{type(self).__name__}: this prompt has earlier turns, which are none of the five "
                f"segments, so their share would be missing; name them: "
                f"groups={(*SEGMENTS, HISTORY)!r}"
            )

    def columns(self, site: Site) -> Bool[Tensor, "batch key segment"]:
        """Which keys belong to each group."""
        return torch.stack([site.keys(group) for group in self.groups], -1)
