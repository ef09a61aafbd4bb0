"""Sinks of the vision encoder (V-sinks) and of the language model (L-sinks).

Luo et al. (2025), arXiv 2510.08510: a few patches leave the vision encoder with a very large norm
and draw attention in the language model, where they have large values in other dimensions than its
own sinks. The terms are from Choi et al. (2026), arXiv 2604.03316.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL.Image import Image
from torch import Tensor

from ..edits import Fn
from ..errors import InputError, LayoutError
from ..graph import EditGraph, Graphlike, as_graph
from ..kernels import normalised
from ..model import LMM, Encoding, ImageInput, Tick
from ..model.patch_features import (
    ENTERING,
    FEATURES,
    PROJECTED,
    RATIO,
    patch_features,
    patch_norms,
)
from ..model.progress import shown
from ..probes import AttentionMaps, Resid, SinkValue
from ..results import Run
from ..results.result import Result
from ..tokens import ImageSpan
from .depth import middle_layers
from .provenance import with_provenance

VALUE = SinkValue("image")


@final
@dataclass(frozen=True, eq=False, repr=False)
class VisionSinks(Result):
    """Which image tokens are outliers of the encoder, and which are sinks of the language model.

    **Attributes:**

    - `image`, `span`: the image and its image tokens.
    - `norm`: the norm of each token's features at the projector's input; the largest of its patches
        if the projector merges several. NaN for a token that is not a patch.
    - `threshold`: the lowest norm of a V-sink.
    - `v_sink`: which tokens are V-sinks.
    - `vision_dims`: coordinates that hold a tenth of the squared norm of every V-sink.
    - `phi`: the sink value of each token entering each layer.
    - `tau`, `dims`: the language model's threshold and sink dimensions, from which phi is computed.
    - `language_dims`: coordinates that hold a tenth of the squared norm of every V-sink in the
        language model, at each of the middle layers.
    - `attention`: attention of the text rows to each token at each layer, mean over heads and rows,
        0 to 1; NaN at layers without a pattern.
    - `phi_without`: phi when V-sinks are replaced by the mean of the other image tokens.
    - `layers`: the middle layers, to which the counts refer.
    """

    figure: ClassVar[str] = "vision_sinks"
    measured: ClassVar[tuple[str, ...]] = (
        "norm", "v_sink", "l_sink", "from_vision", "phi", "attention", "phi_without",
    )  # fmt: skip
    axis_labels: ClassVar[Mapping[str, str]] = {"layer": ""}

    image: Image
    span: ImageSpan
    norm: Float[np.ndarray, " token"]
    threshold: float
    v_sink: Bool[np.ndarray, " token"]
    vision_dims: tuple[int, ...]
    phi: Float[np.ndarray, "layer token"]
    tau: float
    dims: tuple[int, ...]
    language_dims: tuple[int, ...]
    attention: Float[np.ndarray, "layer token"]
    phi_without: Float[np.ndarray, "layer token"]
    layers: tuple[int, ...]

    @property
    def l_sink(self) -> Bool[np.ndarray, " token"]:
        """Which tokens are L-sinks in at least one of the middle layers."""
        return np.logical_or.reduce(self.phi[list(self.layers)] >= self.tau)

    @property
    def both(self) -> Bool[np.ndarray, " token"]:
        """L-sinks that are also V-sinks."""
        return self.l_sink & self.v_sink

    @property
    def from_vision(self) -> Bool[np.ndarray, " token"]:
        """L-sinks that come from V-sinks: they disappear when the V-sinks are replaced."""
        without = np.logical_or.reduce(self.phi_without[list(self.layers)] >= self.tau)
        return self.l_sink & ~without

    @property
    def correlation(self) -> float:
        """The correlation over patches of encoder norm and attention in the middle layers."""
        patch = ~np.isnan(self.norm)
        return float(np.corrcoef(self.norm[patch], self.inner_attention[patch])[0, 1])

    @property
    def inner_attention(self) -> Float[np.ndarray, " token"]:
        """Attention of the text rows to each token, mean over middle layers that have a pattern."""
        return np.nanmean(self.attention[list(self.layers)], 0)

    def share(self, tokens: Bool[np.ndarray, " token"]) -> float:
        """The share of attention to the image that given tokens get in the middle layers."""
        return float(self.inner_attention[tokens].sum() / self.inner_attention.sum())

    def __str__(self) -> str:
        """The counts, in one line."""
        return (
            f"{int(self.v_sink.sum())} V-sinks (norm {self.threshold:.1f} or more, dimensions "
            f"{self.vision_dims}), {int(self.l_sink.sum())} L-sinks (phi {self.tau:.2f} or more in "
            f"{self.dims}); both: {int(self.both.sum())}; L-sinks that come from V-sinks: "
            f"{int(self.from_vision.sum())}; in the language model V-sinks stand out in "
            f"{self.language_dims}; correlation of norm and attention {self.correlation:.2f}"
        )


@with_provenance
def vision_sinks(
    lmm: LMM,
    image: ImageInput,
    prompt: str,
    *,
    ratio: float | None = None,
    norm: float | None = None,
    graph: Graphlike = None,
    tick: Tick | None = None,
) -> VisionSinks:
    """Find the V-sinks and L-sinks of an image, and which L-sinks come from V-sinks.

    Takes two runs: one measures; in the other every V-sink is replaced, where it enters the
    language model, by the mean of the other image tokens. L-sinks that then disappear come from the
    encoder.

    ```python
    found = ex.vision_sinks(lmm, image, prompt)
    found.v_sink.sum(), found.l_sink.sum(), found.from_vision.sum()
    ```

    **Arguments:**

    - `ratio`: a V-sink's norm is at least this many times the median norm of the image's
        patches; 2 by default.
    - `norm`: the lowest norm of a V-sink, instead of `ratio`; Luo et al. (2025) take 100 for CLIP
        ViT-L/14.
    - `graph`: edits that act in both runs.
    - `tick`: called in the place of a progress bar, after every pass of the model.

    **Raises:** `CapabilityError` if the model has no sink dimensions, or if its projector mixes
    patches so that they cannot be assigned to tokens; `InputError` for both a ratio and a norm.
    """
    if ratio is not None and norm is not None:
        raise InputError(f"ratio={ratio} and norm={norm} both say what a V-sink is: give one")
    encoding, edits = lmm.encode(image, prompt), as_graph(graph)
    layers = middle_layers(lmm.n_layers)
    stream = Resid("image", layers=layers, at="pre")
    maps = AttentionMaps(layers=lmm.layers_with(AttentionMaps.hook))
    run = lmm.run(encoding, graph=edits | FEATURES | PROJECTED | ENTERING | VALUE | maps | stream)
    tell = shown(tick, "passes")
    tell(1, 2)
    tokens = run.layout.mask("image[0]")[0].nonzero().flatten()
    entering = run.of(ENTERING, "image[0]").values[:, 0][0]
    features = patch_features(lmm, run, entering)
    norms, least = patch_norms(features, RATIO if ratio is None else ratio)
    least = least if norm is None else norm
    found = norms >= least
    resid = run.of(stream, "image[0]").values[:, 0][:, found]
    without = _without(lmm, encoding, edits, tokens[found], tokens[~found])
    tell(2, 2)
    sinks = lmm.sinks
    return VisionSinks(
        encoding.images[0][0],
        run.layout.images[0][0],
        norms.numpy(),
        least,
        found.numpy(),
        _dims(_strongest(features[found])),
        run.of(VALUE, "image[0]").values[:, 0].numpy(),
        sinks.tau,
        sinks.dims,
        _dims(resid.flatten(0, 1)),
        _attention(run, maps, lmm.n_layers),
        without.numpy(),
        layers,
    )


def _strongest(
    features: Float[Tensor, "token patch d_vision"],
) -> Float[Tensor, "token d_vision"]:
    """Of each token's patches the one of largest norm."""
    place = features.norm(dim=-1).argmax(-1)
    return features[torch.arange(len(features)), place]


def _dims(rows: Float[Tensor, "row width"], share: float = 0.1) -> tuple[int, ...]:
    """The coordinates that hold this share of the squared norm of every row."""
    if not len(rows):
        return ()
    held = normalised(rows.float()).square().amin(0) / rows.shape[-1]
    return tuple((held >= share).nonzero().flatten().tolist())


def _attention(run: Run, maps: AttentionMaps, n_layers: int) -> Float[np.ndarray, "layer token"]:
    record = run.of(maps, "image[0]")
    found = record.mean("query").values[:, 0]
    whole = np.full((n_layers, found.shape[1]), np.nan, dtype=np.float32)
    whole[list(record.labels("layer"))] = found.numpy()
    return whole


def _without(
    lmm: LMM, encoding: Encoding, edits: EditGraph, sinks: Tensor, others: Tensor
) -> Float[Tensor, "layer token"]:
    """phi when some image tokens enter the language model as the mean of the others."""
    if not len(others):
        raise LayoutError("every image token is a V-sink at this threshold; raise ratio or norm")

    def flatten(resid: Tensor, hook: object) -> Tensor:  # noqa: ARG001 (TransformerLens's call)
        changed = resid.clone()
        changed[:, sinks] = resid[:, others].mean(1, keepdim=True)
        return changed

    run = lmm.run(encoding, graph=Fn("hook_resid_pre", flatten, layers=0) | edits | VALUE)
    return run.of(VALUE, "image[0]").values[:, 0]
