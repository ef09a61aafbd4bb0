"""Image-centric heads: rank heads by their visual non-sink ratio (Kang et al. 2025, figure 4)."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import InputError, ResultError
from ..graph import EditGraph, Layers
from ..probes import NonSinkRatio, SegmentMass
from ..results import Run
from ..results.result import Result


def head_probes(layers: Layers = ":") -> EditGraph:
    """The probes that `rank_heads` needs: run this graph, then pass the run to `rank_heads`.

    ```python
    run = lmm.generate(image, prompt, vi.head_probes("2:6"), max_new_tokens=3)
    vi.rank_heads(run, rho=0.3).top(3)
    ```

    **Arguments:**

    - `layers`: the layers; `lmm.layers_with("attn.hook_pattern")` in a model that mixes kinds of
        attention.
    """
    return NonSinkRatio(layers=layers) | SegmentMass(groups=("image",), layers=layers)


HEAD_PROBES = head_probes()
"""The probes of `head_probes`, at every layer."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class HeadRanking(Result):
    """Mean visual non-sink ratio and image mass of every head, over text rows.

    **Attributes:**

    - `ratio`: mean of r over rows; NaN for a head that never attends to the image.
    - `mass`: mean share of attention on the image, 0 to 1.
    - `selected`: the share of rows on which the head is image-centric, 0 to 1.
    - `layers`: the layers.
    - `rho`: the least ratio of an image-centric head.
    """

    figure: ClassVar[str] = "heads"
    measured: ClassVar[tuple[str, ...]] = ("ratio", "mass", "selected")

    ratio: Float[Tensor, "layer head"]
    mass: Float[Tensor, "layer head"]
    selected: Float[Tensor, "layer head"]
    layers: tuple[int, ...]
    rho: float = 0.5

    def __repr__(self) -> str:
        best = ", ".join(f"{layer}.{head}: {ratio:.2f}" for layer, head, ratio in self.top(3))
        sizes = f"layers={len(self.layers)}, heads={self.ratio.shape[1]}"
        return f"HeadRanking({sizes}, highest ratio=[{best}])"

    def top(self, n: int) -> list[tuple[int, int, float]]:
        """The `n` heads with the highest ratio, of those that are image-centric in some row.

        **Returns:** layer, head and ratio of each.
        """
        chosen = self.selected.flatten() > 0
        ratio = torch.where(chosen, self.ratio.flatten(), -torch.inf)
        width = self.ratio.shape[1]
        return [
            (self.layers[i // width], i % width, float(ratio[i]))
            for i in ratio.argsort(descending=True)[:n].tolist()
            if chosen[i]
        ]


def image_centric(
    ratio: Float[Tensor, "layer head row"],
    mass: Float[Tensor, "layer head row"],
    *,
    rho: float,
    min_image_mass: float = 0.2,
) -> Bool[Tensor, "layer head row"]:
    """Which heads are image-centric for which rows: enough attention to the image, and enough of it
    to non-sinks (Kang et al. 2025, A-5' of docs/papers.md).
    """
    return (mass >= min_image_mass) & (ratio >= rho)


def rank_heads(*runs: Run, rho: float = 0.5, min_image_mass: float = 0.2) -> HeadRanking:
    """Rank the heads over all query and generated rows of runs that recorded `head_probes`.

    Rows count once: padding, what follows the end of a shorter answer, and rows before the image
    are left out; in a layer with a sliding window, so are rows that cannot see the image there.

    ```python
    ranking = vi.rank_heads(lmm.generate(image, "What is this?", vi.HEAD_PROBES, max_new_tokens=4))
    ranking.top(3)                                            # layer, head, non-sink ratio
    ```

    **Raises:** `InputError` if no run is given; `ResultError` if a run lacks those probes, or has
    them at other layers than the first run.
    """
    if not runs:
        raise InputError("rank_heads needs a run: lmm.generate(image, prompt, HEAD_PROBES)")
    probes = _probes(runs[0])
    parts = [head_rows(run, probes) for run in runs]
    ratio, mass = (torch.cat(part, -1) for part in zip(*parts, strict=True))
    layers = runs[0][probes[0]].labels("layer")
    return ranked(ratio, mass, layers, rho=rho, min_image_mass=min_image_mass)


def ranked(
    ratio: Float[Tensor, "layer head row"],
    mass: Float[Tensor, "layer head row"],
    layers: tuple[int, ...],
    *,
    rho: float,
    min_image_mass: float,
) -> HeadRanking:
    """The ranking of heads of which ratio and mass are known for every row."""
    chosen = image_centric(ratio, mass, rho=rho, min_image_mass=min_image_mass)
    selected = chosen.sum(-1) / (~mass.isnan()).sum(-1)
    return HeadRanking(ratio.nanmean(-1), mass.nanmean(-1), selected, layers, rho)


def _probes(run: Run) -> tuple[NonSinkRatio, SegmentMass]:
    """The two probes of a run, whatever their layers."""
    for ratio in run.graph:
        if isinstance(ratio, NonSinkRatio):
            pair = head_probes(ratio.layers).nodes
            if all(node in run.graph.nodes for node in pair):
                return ratio, SegmentMass(groups=("image",), layers=ratio.layers)
    raise ResultError(
        "no record of NonSinkRatio and SegmentMass(groups=('image',)) at the same layers; run the "
        "model with HEAD_PROBES, or with head_probes(layers)"
    )


def head_rows(
    run: Run, probes: tuple[NonSinkRatio, SegmentMass] | None = None
) -> tuple[Float[Tensor, "layer head row"], Float[Tensor, "layer head row"]]:
    """Ratio and mass of the rows that count, of all samples one after another.

    **Raises:** `ResultError` if the run lacks the probes of `head_probes`.
    """
    ratio, mass = probes or _probes(run)
    ratios = run[ratio].entries("batch", "query")
    masses = run[mass].at(segment="image").entries("batch", "query")
    return ratios.float(), masses.float()
