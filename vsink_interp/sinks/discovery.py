"""Find a model's sink dimensions and its threshold on phi (Kang et al. 2025)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from typing_extensions import override

from ..edits import Fn
from ..errors import CapabilityError
from ..graph import Graphlike, HookContext, Site
from ..kernels import normalised, sink_value
from ..probes import Resid
from ..probes.row_probe import RowProbe
from ..results import Run
from .catalogue import CatalogueEntry, published
from .dims import SinkDims

PROMPTS = (
    "Describe the image.",
    "What is this?",
    "Count slowly from one to ten, then tell me which number you liked best.",
)
PAPER_TAU, PAPER_WIDTH = 20.0, 4096
"""Kang et al.'s threshold, and the width of the model for which they chose it."""


@runtime_checkable
class Runs(Protocol):
    """What discovery needs of a model: which layers offer a hook point, and forward passes."""

    def layers_with(self, hook: str) -> tuple[int, ...]:
        """The layers that offer a hook point."""
        ...

    def run(self, image: Any, prompt: Any = None, graph: Graphlike = None) -> Run:
        """One forward pass."""
        ...


@final
@dataclass(frozen=True, eq=False, repr=False)
class SinkReport:
    """The result of `find_sink_dims`, with the evidence.

    **Attributes:**

    - `sinks`: the dimensions and the threshold, ready for an `LMM`.
    - `spectrum`: the absolute RMS-normalised residual of the first token, minimum over prompts and
        layers.
    - `phi`: the sink value of every token of the prompts at the layers examined.
    - `layers`: those layers.
    - `bos_mass`, `bos_mass_clamped`: the share of attention that the first token gets before and
        after its sink dimensions are set to zero: the causal check.
    - `catalogued`: what the method's authors print for a model of this name and width, if
        anything; shown for comparison, never used instead.
    """

    sinks: SinkDims
    spectrum: Float[Tensor, " d_model"]
    phi: Float[Tensor, " token"]
    layers: tuple[int, ...]
    bos_mass: float
    bos_mass_clamped: float
    catalogued: CatalogueEntry | None = None

    @property
    def dims(self) -> tuple[int, ...]:
        """The sink dimensions."""
        return self.sinks.dims

    @property
    def tau(self) -> float:
        """The suggested threshold."""
        return self.sinks.tau

    @property
    def gap(self) -> tuple[float, float]:
        """The largest phi below tau and the smallest at or above it, over all tokens."""
        below, above = self.phi[self.phi < self.tau], self.phi[self.phi >= self.tau]
        return (
            float(below.max()) if len(below) else 0.0,
            float(above.min()) if len(above) else float("inf"),
        )

    def __repr__(self) -> str:
        return (
            f"SinkReport(dims={self.dims}, tau={self.tau:.4g}, layers={len(self.layers)}, "
            f"bos_mass={self.bos_mass:.2f}, bos_mass_clamped={self.bos_mass_clamped:.2f})"
        )

    def __str__(self) -> str:
        low, high = self.gap
        return (
            f"sink dimensions {self.dims}, tau {self.tau:.2f} (no phi between {low:.2f} and "
            f"{high:.2f}); setting them to zero changes the first token's share of attention from "
            f"{self.bos_mass:.2f} to {self.bos_mass_clamped:.2f}"
        ) + self._beside_catalogue()

    def _beside_catalogue(self) -> str:
        if self.catalogued is None:
            return ""
        same = "the same" if set(self.catalogued.dims) == set(self.dims) else "others"
        return f"; the catalogue has {same}: {self.catalogued}"


@final
@dataclass(frozen=True, eq=False)
class Verdict:
    """A catalogue entry, compared with what `find_sink_dims` found in a model.

    **Attributes:**

    - `entry`: the reported dimensions.
    - `report`: what was found, with the evidence.
    """

    entry: CatalogueEntry
    report: SinkReport

    @property
    def missing(self) -> tuple[int, ...]:
        """Dimensions of the entry that were not found."""
        return tuple(dim for dim in self.entry.dims if dim not in self.report.dims)

    @property
    def extra(self) -> tuple[int, ...]:
        """Dimensions that were found and are not in the entry."""
        return tuple(dim for dim in self.report.dims if dim not in self.entry.dims)

    @property
    def agrees(self) -> bool:
        """Whether both have the same dimensions."""
        return not self.missing and not self.extra


def verify(lmm: Runs, entry: CatalogueEntry) -> Verdict:
    """Find a model's sink dimensions and compare them with an entry of the catalogue.

    **Raises:** `CapabilityError` if the model has none, or has another width than the entry.
    """
    report = find_sink_dims(lmm)
    if len(report.spectrum) != entry.width:
        raise CapabilityError(
            f"{entry.model} has width {entry.width}, this model {len(report.spectrum)}: it is "
            "another model"
        )
    return Verdict(entry, report)


def find_sink_dims(
    lmm: Runs,
    *,
    images: Sequence[Any] = (),
    prompts: Sequence[str] = PROMPTS,
    share: float = 0.1,
) -> SinkReport:
    """Find the coordinates that dominate the first token's residual stream in all layers examined.

    A dimension is a sink dimension if it holds at least `share` of the squared norm of the first
    token's residual stream in every prompt, at four layers of the middle half. (For LLaMA-2-7B,
    tau = 20 is a tenth of the squared norm.) Kang et al. (2025) also put a threshold on the
    RMS-normalised residual, but do not print its value.

    **Arguments:**

    - `images`: images to use in addition to the text-only prompts; a drawn one by default.
    - `prompts`: the prompts.
    - `share`: the least share of the squared norm, 0 to 1.

    **Raises:** `CapabilityError` if no dimension reaches that share.
    """
    at = lmm.layers_with(FirstTokenMass.hook)
    places = {min(round(len(at) * part), len(at) - 1) for part in (0.25, 0.4, 0.55, 0.7)}
    layers = tuple(at[place] for place in sorted(places))
    asked = [(None, prompt) for prompt in prompts]
    asked += [(image, prompts[0]) for image in (images or (_plain_image(),))]
    graph = Resid(layers=layers, at="pre")
    runs = [lmm.run(image, prompt, graph) for image, prompt in asked]
    resid = [run[graph].values[:, 0] for run in runs]
    spectrum = torch.stack([normalised(x)[:, 0].abs().amin(0) for x in resid]).amin(0)
    width = spectrum.shape[0]
    dims = tuple((spectrum.square() >= share * width).nonzero().flatten().tolist())
    if not dims:
        raise CapabilityError(
            f"no sink dimension found: none holds {share:.0%} of the first token's squared norm, "
            f"the largest share is {float(spectrum.square().max()) / width:.1%}. This model may "
            "have no sinks; lower share=, or set lmm.sinks = SinkDims(dims, tau)"
        )
    phi = torch.cat([sink_value(x, dims).flatten() for x in resid])
    sinks = SinkDims(dims, suggest_tau(phi, width), source="found by find_sink_dims")
    before, after = _causal_check(lmm, dims, layers, asked[-1])
    known = published(runs[0].model, width)
    return SinkReport(sinks, spectrum, phi, layers, before, after, known)


def suggest_tau(phi: Float[Tensor, " token"], width: int) -> float:
    """The middle of the widest gap in phi near 20 * sqrt(width / 4096), the paper's tau scaled.

    phi cannot exceed the square root of the width, so the paper's 20 is scaled with it; the gap is
    searched for between 0.5 and 1.5 times that value.
    """
    scaled = PAPER_TAU * (width / PAPER_WIDTH) ** 0.5
    low, high = scaled / 2, scaled * 1.5
    inside = phi[(phi > low) & (phi < high)].sort().values
    edges = torch.cat([torch.tensor([low]), inside, torch.tensor([high])])
    widest = int(edges.diff().argmax())
    return float(edges[widest : widest + 2].mean())


def _causal_check(
    lmm: Runs, dims: tuple[int, ...], layers: tuple[int, ...], asked: tuple[Any, str]
) -> tuple[float, float]:
    def clamp(resid: Tensor, hook: HookContext) -> Tensor:  # noqa: ARG001
        changed = resid.clone()
        changed[:, 0, list(dims)] = 0
        return changed

    mass, edit = FirstTokenMass(layers=layers), Fn("hook_resid_pre", clamp, layers=layers)
    before, after = (lmm.run(*asked, graph)[mass].values for graph in (mass, edit | mass))
    return float(before.mean()), float(after.mean())


@final
@dataclass(frozen=True)
class FirstTokenMass(RowProbe):
    """The share of each row's attention that the first token gets: `[layer batch head query]`.

    By position, because some families write no BOS.
    """

    hook: ClassVar[str] = "attn.hook_pattern"
    axes: ClassVar[tuple[str, ...]] = ("batch", "head", "query")

    @override
    def measure(self, value: Tensor, site: Site) -> Tensor:
        del site
        return value[..., 0]


def _plain_image() -> Image.Image:
    """A smooth image with a disc, so that discovery needs no file."""
    y, x = np.mgrid[0:1:224j, 0:1:224j]
    disc = ((x - 0.4) ** 2 + (y - 0.6) ** 2 < 0.04)[..., None]
    wash = np.stack([x, y, 1 - x], -1) * 0.6 + 0.2
    return Image.fromarray((np.where(disc, (0.9, 0.2, 0.1), wash) * 255).astype(np.uint8))
