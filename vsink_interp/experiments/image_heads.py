"""Heads ranked by where they look (Kang et al. 2025, fig. 4)."""

from ..heads import HEAD_PROBES, HeadRanking, rank_heads
from ..lmm import LMM
from .answers import runs
from .cases import Cases


def image_heads(
    lmm: LMM,
    cases: Cases,
    *,
    rho: float = 0.5,
    min_image_mass: float = 0.2,
) -> HeadRanking:
    """Every head's mean visual non-sink ratio and image mass, over all rows of all answered cases.

    **Raises:** `CapabilityError` if the model has no sink dimensions.
    """
    return rank_heads(*runs(lmm, cases, HEAD_PROBES), rho=rho, min_image_mass=min_image_mass)
