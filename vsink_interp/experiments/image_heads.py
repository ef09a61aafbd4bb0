"""Heads ranked by visual non-sink ratio (Kang et al. 2025, figure 4)."""

from ..model import LMM
from ..sinks import HeadRanking, head_probes, rank_heads
from .answers import runs
from .cases import Cases
from .depth import pattern_layers


def image_heads(
    lmm: LMM,
    cases: Cases,
    *,
    rho: float = 0.5,
    min_image_mass: float = 0.2,
) -> HeadRanking:
    """Mean visual non-sink ratio and image mass of every head, over all text rows of all cases.

    Layers without a pattern have no heads to rank.

    ```python
    ex.image_heads(lmm, cases, rho=0.3).top(3)                    # layer, head, ratio
    ```

    **Raises:** `CapabilityError` if the model has no sink dimensions.
    """
    found = runs(lmm, cases, head_probes(pattern_layers(lmm)))
    return rank_heads(*found, rho=rho, min_image_mass=min_image_mass)
