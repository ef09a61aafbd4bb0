"""Attention to image tokens, as maps over patches."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Int
from torch import Tensor
from typing_extensions import override

from ..graph import Site
from ..tokens import TokenLayout
from .row_probe import RowProbe


@final
@dataclass(frozen=True)
class AttentionMaps(RowProbe):
    """Attention of each row to each image token, averaged over heads: `[layer batch query patch]`.

    Kang et al. (2025), figure 1; Kaduri et al. (2025), figure 4. `patch` counts the tokens of all
    images of a sample, NaN where it has fewer than another; `run.of(maps, "image[0]")` are those
    of one image. `vsink_interp.plot` draws them over its grid.

    ```python
    maps = vi.probes.AttentionMaps("generated", layers="2:5")
    run = lmm.generate(image, "What is this?", maps, max_new_tokens=4)
    run.of(maps, "image[0]").mean("layer", "query").values[0].reshape(8, 8)   # a heat map
    ```
    """

    hook: ClassVar[str] = "attn.hook_pattern"
    axes: ClassVar[tuple[str, ...]] = ("batch", "query", "patch")

    @override
    def check(self, layout: TokenLayout, *, generates: bool) -> None:
        RowProbe.check(self, layout, generates=generates)
        layout.check_group("image")

    @override
    def measure(self, value: Tensor, site: Site) -> Tensor:
        places = site.once("image positions", _positions)[:, None]
        wanted = places.clamp_min(0).expand(-1, value.shape[2], -1)
        return value.mean(1).gather(-1, wanted).masked_fill(places < 0, torch.nan)


def _positions(whole: Site) -> Int[Tensor, "batch patch"]:
    return whole.layout.positions("image").to(whole.masks.device)
