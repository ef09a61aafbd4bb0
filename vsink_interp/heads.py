"""Image-centric heads: ranking attention heads by where they look (Kang et al. 2025, fig. 4)."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .probes import NonSinkRatio, SegmentMass
from .results import Run

RATIO = NonSinkRatio()
MASS = SegmentMass(groups=("image",))
HEAD_PROBES = RATIO | MASS
"""Run this graph and give the run to `rank_heads`."""


@final
@dataclass(frozen=True, eq=False)
class HeadRanking:
    """Every head with its mean visual non-sink ratio and image mass over the text rows.

    **Attributes:**

    - `ratio`: mean of r over rows; NaN for a head that never looks at the image.
    - `mass`: mean share of attention on the image, 0 to 1.
    - `selected`: the share of rows on which the head is image-centric, 0 to 1.
    """

    ratio: Float[Tensor, "layer head"]
    mass: Float[Tensor, "layer head"]
    selected: Float[Tensor, "layer head"]

    def top(self, n: int) -> list[tuple[int, int, float]]:
        """The `n` heads of highest ratio among those ever image-centric: layer, head, ratio."""
        score = torch.where(self.selected > 0, self.ratio, -1.0).nan_to_num(nan=-1.0)
        order = score.flatten().argsort(descending=True)[:n].tolist()
        width = score.shape[1]
        return [
            (i // width, i % width, float(score.flatten()[i]))
            for i in order
            if score.flatten()[i] >= 0
        ]


def image_centric(
    ratio: Float[Tensor, "layer batch head query"],
    mass: Float[Tensor, "layer batch head query"],
    *,
    rho: float,
    min_image_mass: float = 0.2,
) -> Bool[Tensor, "layer batch head query"]:
    """Which heads are image-centric for which rows: enough attention on the image, enough of it
    beside the sinks (Kang et al. 2025, below equation (A-5) of our docs).
    """
    return (mass >= min_image_mass) & (ratio >= rho)


def rank_heads(run: Run, *, rho: float = 0.5, min_image_mass: float = 0.2) -> HeadRanking:
    """Rank the heads of a run that recorded `HEAD_PROBES`.

    **Raises:** `ResultError` if the run lacks those probes.
    """
    ratio, mass = run[RATIO].values, run[MASS].values[..., 0]
    chosen = image_centric(ratio, mass, rho=rho, min_image_mass=min_image_mass)
    dims = [1, 3]
    return HeadRanking(ratio.nanmean(dims), mass.mean(dims), chosen.float().mean(dims))
