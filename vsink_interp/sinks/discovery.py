"""Find a model's sink dimensions and its threshold on phi (Kang et al. 2025)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ..errors import CapabilityError
from ..graph import Graphlike
from ..kernels import normalised, sink_value
from ..probes import Resid, SinkValue
from ..results import Run
from .catalogue import CatalogueEntry, published
from .causal import CausalCheck, FirstTokenMass, causal_check
from .dims import SinkDims
from .threshold import Threshold, valley

PROMPTS = (
    "Describe the image.",
    "What is this?",
    "Count slowly from one to ten, then tell me which number you liked best.",
)
_MASSIVE = 0.5
"""What a sink dimension holds, at least, where one layer without it is left out."""


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
        after its sink dimensions are set to zero; `causal` has the other interventions.
    - `catalogued`: what the method's authors print for a model of this name and width, if
        anything; shown for comparison, never used instead.
    - `threshold`: how tau was chosen, and how sure it is.
    - `causal`: the causal check with its controls.
    - `written`: the ranges of layers, first and last, that the first token enters as a sink: a
        model may write its sinks, erase them and write them again.
    """

    sinks: SinkDims
    spectrum: Float[Tensor, " d_model"]
    phi: Float[Tensor, " token"]
    layers: tuple[int, ...]
    bos_mass: float
    bos_mass_clamped: float
    catalogued: CatalogueEntry | None = None
    threshold: Threshold | None = None
    causal: CausalCheck | None = None
    written: tuple[tuple[int, int], ...] = ()

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

    def histogram(self, bins: int = 12) -> tuple[tuple[float, float, int], ...]:
        """How many tokens have which phi: least and largest phi of each bin, and the number."""
        top = float(self.phi.max())
        counts, edges = np.histogram(self.phi.numpy(), bins=bins, range=(0.0, top or 1.0))
        rows = zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
        return tuple(rows)

    def __repr__(self) -> str:
        return (
            f"SinkReport(dims={self.dims}, tau={self.tau:.4g}, layers={len(self.layers)}, "
            f"bos_mass={self.bos_mass:.2f}, bos_mass_clamped={self.bos_mass_clamped:.2f})"
        )

    def __str__(self) -> str:
        low, high = self.gap
        parts = [
            f"sink dimensions {self.dims}, tau {self.tau:.2f} (no phi between {low:.2f} and "
            f"{high:.2f})"
        ]
        if self.threshold is not None:
            parts.append(str(self.threshold))
        if self.written:
            ranges = ", ".join(f"{first}-{last}" for first, last in self.written)
            parts.append(f"the first token is a sink in layers {ranges}")
        parts.append(f"its share of attention: {self._masses()}")
        return "; ".join(parts) + self._beside_catalogue()

    def _masses(self) -> str:
        if self.causal is not None:
            return str(self.causal)
        return f"{self.bos_mass:.2f}, and {self.bos_mass_clamped:.2f} with those dimensions at zero"

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

    ```py
    verdict = vi.verify(lmm, vi.catalogue.find_entry("llava-hf/llava-1.5-7b-hf"))
    verdict.agrees, verdict.missing, verdict.extra
    ```

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
    prompts: Sequence[Any] = PROMPTS,
    share: float = 0.1,
) -> SinkReport:
    """Find the coordinates that dominate the first token's residual stream in all layers examined.

    A dimension is a sink dimension if it holds at least `share` of the squared norm of the first
    token's residual stream in every prompt, at four layers of the middle half. (For LLaMA-2-7B,
    tau = 20 is a tenth of the squared norm.) Kang et al. (2025) also put a threshold on the
    RMS-normalised residual, but do not print its value.

    One layer in which no dimension does, where the others have one, is left out: some models
    erase their sinks in the middle and write them again. Where tau comes from, `Threshold` says;
    what the causal check does, `CausalCheck`. About twelve forward passes.

    ```python
    report = vi.find_sink_dims(lmm)
    report.dims, report.tau                                   # lmm.sinks = report keeps them
    ```

    **Arguments:**

    - `images`: images to use in addition to the text-only prompts; a drawn one by default.
    - `prompts`: the prompts, in any form that `lmm.run` takes; the first one is asked about images.
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
    firsts = torch.stack([normalised(x)[:, 0].abs() for x in resid]).amin(0)
    kept = _written(firsts, share)
    spectrum, width = firsts[kept].amin(0), firsts.shape[1]
    dims = tuple((spectrum.square() >= share * width).nonzero().flatten().tolist())
    if not dims:
        raise CapabilityError(
            f"no sink dimension found: none holds {share:.0%} of the first token's squared norm, "
            f"the largest share is {float(spectrum.square().max()) / width:.1%}. This model may "
            "have no sinks; lower share=, or set lmm.sinks = SinkDims(dims, tau)"
        )
    layers = tuple(layers[place] for place in kept)
    values = [sink_value(x[kept], dims) for x in resid]
    threshold = valley(
        torch.cat([x[:, 0] for x in values]), torch.cat([x[:, 1:].flatten() for x in values])
    )
    sinks = SinkDims(dims, threshold.tau, source="found by find_sink_dims")
    later = tuple(layer for layer in at if layer >= layers[0])
    causal = causal_check(lambda g: lmm.run(*asked[-1], g), dims, spectrum, layers, later)
    return SinkReport(
        sinks,
        spectrum,
        torch.cat([x.flatten() for x in values]),
        layers,
        causal.before,
        causal.zeroed,
        published(runs[0].model, width),
        threshold,
        causal,
        _ranges(lmm, asked[0], at, sinks),
    )


def _written(firsts: Float[Tensor, "layer d_model"], share: float) -> list[int]:
    """The places of the layers that count: all, or all but one that has erased its sinks."""
    part = firsts.square() / firsts.shape[1]
    if not (part >= share).all(0).any() and len(firsts) >= 3:
        steady = (part >= _MASSIVE).sum(0) == len(firsts) - 1
        if steady.any():
            return (part[:, steady] >= _MASSIVE).any(1).nonzero().flatten().tolist()
    return list(range(len(firsts)))


def _ranges(
    lmm: Runs, asked: tuple[Any, Any], at: tuple[int, ...], sinks: SinkDims
) -> tuple[tuple[int, int], ...]:
    """The runs of layers in `at` that the first token enters with phi of at least tau."""
    probe = SinkValue(layers=at, dims=sinks.dims)
    phi = lmm.run(*asked, probe)[probe].values[:, 0, 0]
    found: list[tuple[int, int]] = []
    joined = False
    for layer, value in zip(at, phi.tolist(), strict=True):
        if value >= sinks.tau:
            found[-1:] = [(found[-1][0], layer)] if joined else [*found[-1:], (layer, layer)]
        joined = value >= sinks.tau
    return tuple(found)


def _plain_image() -> Image.Image:
    """A smooth image with a disc, so that discovery needs no file."""
    y, x = np.mgrid[0:1:224j, 0:1:224j]
    disc = ((x - 0.4) ** 2 + (y - 0.6) ** 2 < 0.04)[..., None]
    wash = np.stack([x, y, 1 - x], -1) * 0.6 + 0.2
    return Image.fromarray((np.where(disc, (0.9, 0.2, 0.1), wash) * 255).astype(np.uint8))
