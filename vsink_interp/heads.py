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
    ratio: Float[Tensor, "layer head row"],
    mass: Float[Tensor, "layer head row"],
    *,
    rho: float,
    min_image_mass: float = 0.2,
) -> Bool[Tensor, "layer head row"]:
    """Which heads are image-centric for which rows: enough attention on the image, enough of it
    beside the sinks (Kang et al. 2025, below equation (A-5) of our docs).
    """
    return (mass >= min_image_mass) & (ratio >= rho)


def rank_heads(*runs: Run, rho: float = 0.5, min_image_mass: float = 0.2) -> HeadRanking:
    """Rank the heads over all query and generated rows of runs that recorded `HEAD_PROBES`.

    Rows count once: padding and what follows the end of a shorter answer are left out.

    **Raises:** `ResultError` if a run lacks those probes.
    """
    parts = [_rows(run) for run in runs]
    ratio, mass = (torch.cat(part, -1) for part in zip(*parts, strict=True))
    chosen = image_centric(ratio, mass, rho=rho, min_image_mass=min_image_mass)
    return HeadRanking(ratio.nanmean(-1), mass.mean(-1), chosen.float().mean(-1))


def _rows(run: Run) -> tuple[Float[Tensor, "layer head row"], Float[Tensor, "layer head row"]]:
    """Ratio and mass of the rows that count, of all samples one after another."""
    rows = run.counted_rows(RATIO, "query generated")
    ratio = run[RATIO].values.float().transpose(1, 2)[:, :, rows]
    mass = run[MASS].values[..., 0].float().transpose(1, 2)[:, :, rows]
    return ratio, mass
