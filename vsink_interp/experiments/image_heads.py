"""Heads ranked by where they look (Kang et al. 2025, fig. 4)."""

import torch
from torch import Tensor

from ..heads import HEAD_PROBES, MASS, RATIO, HeadRanking, image_centric
from ..lmm import LMM
from ..results import Run
from .answers import runs, text_mask
from .cases import Cases


def image_heads(
    lmm: LMM,
    cases: Cases,
    *,
    rho: float = 0.5,
    min_image_mass: float = 0.2,
) -> HeadRanking:
    """Every head's mean visual non-sink ratio and image mass, over all rows of all answered cases.

    `rank_heads` does this for one run; here the cases are many, and what follows the end of a
    shorter answer is left out.

    **Raises:** `CapabilityError` if the model has no sink dimensions.
    """
    found = runs(lmm, cases, HEAD_PROBES)
    parts = [_rows(run) for run in found]
    ratio, mass = (torch.cat(part, -1) for part in zip(*parts, strict=True))
    chosen = image_centric(ratio[:, None], mass[:, None], rho=rho, min_image_mass=min_image_mass)[
        :, 0
    ]
    return HeadRanking(ratio.nanmean(-1), mass.mean(-1), chosen.float().mean(-1))


def _rows(run: Run) -> tuple[Tensor, Tensor]:
    """Ratio and mass of the rows that count, of all samples one after another."""
    rows = text_mask(run, RATIO)
    ratio = run[RATIO].values.float().transpose(1, 2)[:, :, rows]
    mass = run[MASS].values[..., 0].float().transpose(1, 2)[:, :, rows]
    return ratio, mass
