"""Shares of attention: by segment (Kaduri et al.), and beside the sinks (Kang et al.)."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from ..errors import NotationError
from ..graph import freeze
from ..kernels import group_mass, non_sink_ratio
from ..segments import SEGMENTS, grows_by_sinks, parse_group
from ..site import Site
from ..tokens import TokenLayout
from .rows import RowProbe

THREE_WAY = ("image", "prompt & ~image", "generated")
"""Kaduri et al.'s split: BOS, system prompt and instruction all count as query tokens."""


@final
@dataclass(frozen=True)
class SegmentMass(RowProbe):
    """Each row's share of attention on each group: `[layer batch head query segment]`.

    Kaduri et al. (2025), equation (B-5) of our docs before its mean over heads.

    **Arguments:**

    - `groups`: the groups of keys; the five segments by default, `mass.THREE_WAY` for theirs.
    """

    hook: ClassVar[str] = "attn.hook_pattern"
    axes: ClassVar[tuple[str, ...]] = ("batch", "head", "query", "segment")

    _: KW_ONLY
    groups: tuple[str, ...] = SEGMENTS

    def __post_init__(self) -> None:
        RowProbe.__post_init__(self)
        freeze(self, "groups")
        if isinstance(self.groups, str):
            raise NotationError(f"groups is a tuple, as in groups=({self.groups!r},)")
        if not self.groups:
            raise NotationError(f"SegmentMass needs at least one group of: {', '.join(SEGMENTS)}")
        for group in self.groups:
            parse_group(group)

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """The names along the axis `segment`."""
        return {"segment": self.groups}

    @property
    @override
    def sums_keys(self) -> bool:
        return True

    @property
    @override
    def needs_phi(self) -> bool:
        return any("sink" in parse_group(group).words for group in self.groups)

    @property
    @override
    def needs_new_phi(self) -> bool:
        return any(grows_by_sinks(group) for group in self.groups)

    @override
    def measure(self, value: Tensor, site: Site) -> Tensor:
        if self.needs_new_phi:
            return group_mass(value, self._columns(site))
        return group_mass(value, site.once(self, self._columns)[:, : site.n_keys])

    def _columns(self, site: Site) -> Float[Tensor, "batch key segment"]:
        return torch.stack([site.keys(group) for group in self.groups], -1).float()


@final
@dataclass(frozen=True)
class NonSinkRatio(RowProbe):
    """The visual non-sink ratio r of every head and row: `[layer batch head query]`, 0 to 1.

    Kang et al. (2025), equation (A-5) of our docs; NaN where a row gives the image nothing.
    """

    hook: ClassVar[str] = "attn.hook_pattern"
    axes: ClassVar[tuple[str, ...]] = ("batch", "head", "query")

    @property
    @override
    def sums_keys(self) -> bool:
        return True

    @property
    @override
    def needs_phi(self) -> bool:
        return True

    @property
    @override
    def needs_new_phi(self) -> bool:
        return False

    @override
    def check(self, tokens: TokenLayout, *, generates: bool) -> None:
        RowProbe.check(self, tokens, generates=generates)
        tokens.check_group("image")

    @override
    def measure(self, value: Tensor, site: Site) -> Tensor:
        sink = site.once(self, Site.sinks)[:, : site.n_keys]
        return non_sink_ratio(value, sink, site.keys("image"))
