"""Attention to image tokens, as maps over patches."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from typing_extensions import override

from ..graph import Site
from ..tokens import TokenLayout
from .row_probe import RowProbe


def image_positions(image: Bool[Tensor, "batch token"]) -> Int[Tensor, "batch patch"]:
    """The positions of each sample's image tokens; samples with fewer are filled up with 0."""
    count = int(image.sum(-1).max())
    order = torch.argsort((~image).int(), dim=-1, stable=True)[:, :count]
    return order.masked_fill(~image.gather(1, order), 0)


@final
@dataclass(frozen=True)
class AttentionMaps(RowProbe):
    """Attention of each row to each image token, averaged over heads: `[layer batch query patch]`.

    Kang et al. (2025), figure 1; Kaduri et al. (2025), figure 4. Reshape `patch` to the
    image's grid for a map, as `vsink_interp.plot` does. NaN where a sample has fewer image tokens
    than another.
    """

    hook: ClassVar[str] = "attn.hook_pattern"
    axes: ClassVar[tuple[str, ...]] = ("batch", "query", "patch")

    @override
    def check(self, layout: TokenLayout, *, generates: bool) -> None:
        RowProbe.check(self, layout, generates=generates)
        layout.check_group("image")

    @override
    def measure(self, value: Tensor, site: Site) -> Tensor:
        places = site.once("image positions", _places)[:, None]
        wanted = places.clamp_min(0).expand(-1, value.shape[2], -1)
        return value.mean(1).gather(-1, wanted).masked_fill(places < 0, torch.nan)


def _places(whole: Site) -> Int[Tensor, "batch patch"]:
    """The image tokens of each sample, in order; -1 where a sample has fewer than another."""
    image = whole.layout.mask("image")
    places = image_positions(image)
    missing = torch.arange(places.shape[1]) >= image.sum(-1, keepdim=True)
    return places.masked_fill(missing, -1).to(whole.masks.device)
