"""Shares of attention: by group (Kaduri et al.), to visual non-sinks (Kang et al.), to no token."""

from dataclasses import dataclass
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from ..errors import CapabilityError
from ..graph import Site, Sizes
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

    ```python
    mass = vi.probes.SegmentMass(groups=("image", "sink & image", "query"))
    run = lmm.generate(image, "What is this?", mass, max_new_tokens=4)
    run[mass].at(segment="image").mean("batch", "head", "query").values       # one number a layer
    ```

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
        return group_mass(value, site.once("shares", self._shares)[:, : site.n_keys])

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


@final
@dataclass(frozen=True)
class LearnedSinkMass(RowProbe):
    """Each row's share of attention on its head's learned sink: `[layer batch head query]`, 0 to 1.

    Some models (GPT-OSS; Agarwal et al., 2025, arXiv 2508.10925) give every head a learned score
    that takes part in the softmax and belongs to no token: `softmax([scores, s])` without its last
    column. A row of the pattern sums to one less this share; rows of padding have 0. It is read
    from the pattern, so behind an edit that changes the sum of a row it is what the edit left.

    **Raises:** when run: `CapabilityError` if the model has no learned sinks.
    """

    hook: ClassVar[str] = "attn.hook_pattern"
    axes: ClassVar[tuple[str, ...]] = ("batch", "head", "query")

    @property
    @override
    def sums_keys(self) -> bool:
        return True

    @override
    def fit(self, sizes: Sizes) -> None:
        if not sizes.learned_sinks:
            raise CapabilityError(
                f"{self!r}: this model's softmax has no learned sinks, as GPT-OSS's has; its sinks "
                "are tokens: probes.SegmentMass(groups=('sink', '~sink'))"
            )

    @override
    def measure(self, value: Tensor, site: Site) -> Tensor:
        share = (1.0 - value.sum(-1)).clamp_min(0.0)
        real = site.rows("all")
        return share if real is None else share.masked_fill(~real[:, None], 0.0)
