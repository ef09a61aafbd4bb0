"""Shares of attention: by group (Kaduri et al.), and to visual non-sinks (Kang et al.)."""

from dataclasses import dataclass
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from ..graph import Site
from ..kernels import group_mass, non_sink_ratio
from ..tokens import TokenLayout
from .row_probe import GroupProbe, RowProbe

THREE_WAY = ("image", "prompt & ~image", "generated")
"""Kaduri et al.'s split: BOS, system prompt and instruction all count as query tokens."""


@final
@dataclass(frozen=True)
class SegmentMass(GroupProbe):
    """Each row's share of attention on each group: `[layer batch head query segment]`.

    Kaduri et al. (2025), equation B-5 of docs/papers.md, before the mean over heads.

    **Arguments:**

    - `groups`: the groups of keys; the five segments by default, `mass.THREE_WAY` for Kaduri et
        al.'s split.
    """

    @property
    @override
    def sums_keys(self) -> bool:
        return True

    @override
    def measure(self, value: Tensor, site: Site) -> Tensor:
        if self.needs_new_phi:
            return group_mass(value, self._shares(site))
        return group_mass(value, site.once(self, self._shares)[:, : site.n_keys])

    def _shares(self, site: Site) -> Float[Tensor, "batch key segment"]:
        return self.columns(site).float()


@final
@dataclass(frozen=True)
class NonSinkRatio(RowProbe):
    """The visual non-sink ratio r of every head and row: `[layer batch head query]`, 0 to 1.

    Kang et al. (2025), equation A-5 of docs/papers.md; NaN where a row gives the image nothing.
    """

    hook: ClassVar[str] = "attn.hook_pattern"
    axes: ClassVar[tuple[str, ...]] = ("batch", "head", "query")

    @property
    @override
    def sums_keys(self) -> bool:
        return True

    @property
    @override
    def about(self) -> str:
        return "image"

    @property
    @override
    def needs_phi(self) -> bool:
        return True

    @property
    @override
    def needs_new_phi(self) -> bool:
        return False

    @override
    def check(self, layout: TokenLayout, *, generates: bool) -> None:
        RowProbe.check(self, layout, generates=generates)
        layout.check_group("image")

    @override
    def measure(self, value: Tensor, site: Site) -> Tensor:
        sink = site.once(self, Site.sinks)[:, : site.n_keys]
        return non_sink_ratio(value, sink, site.keys("image"))
