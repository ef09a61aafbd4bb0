"""Neurons of the vision encoder that make patches of large norm (Jiang et al. 2025)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import InputError, LayoutError
from ..graph import Layers, resolve_layers
from ..model import LMM, ImageInput, Tick
from ..model.patch_features import FEATURES
from ..model.progress import shown
from ..probes import Activation
from ..results.result import Result
from .provenance import with_provenance

NEURONS = "vision_encoder.blocks.{layer}.mlp.hook_post"
LEAVING = "vision_encoder.blocks.{layer}.hook_resid_post"
SPREADS = 3.0
"""An outlier's norm is this many standard deviations above the mean of its image's patches."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class RegisterNeurons(Result):
    """The neurons that are most active at outlier patches, strongest first.

    **Attributes:**

    - `chosen`: layer and number of each neuron.
    - `at_outliers`, `elsewhere`: its mean activation at outlier patches and at the others, mean
        over images.
    - `n_outliers`: of each image.
    - `norm`: the largest norm of a patch of each image, over the median of its patches.
    - `layers`: the layers that were searched.
    """

    figure: ClassVar[str] = "register_neurons"
    measured: ClassVar[tuple[str, ...]] = ("at_outliers", "elsewhere", "n_outliers", "norm")
    axis_labels: ClassVar[Mapping[str, str]] = {"neuron": "names", "image": ""}

    chosen: tuple[tuple[int, int], ...]
    at_outliers: Float[np.ndarray, " neuron"]
    elsewhere: Float[np.ndarray, " neuron"]
    n_outliers: Float[np.ndarray, " image"]
    norm: Float[np.ndarray, " image"]
    layers: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Layer and number of each neuron, as text."""
        return tuple(f"L{layer}.{neuron}" for layer, neuron in self.chosen)

    @property
    def neurons(self) -> dict[int, tuple[int, ...]]:
        """The neurons by layer, as `edits.recipes.registers` takes them."""
        found: dict[int, tuple[int, ...]] = {}
        for layer, neuron in sorted(self.chosen):
            found[layer] = (*found.get(layer, ()), neuron)
        return found

    def __str__(self) -> str:
        """How many outliers there are, and the first neurons, in one line."""
        first = ", ".join(self.names[:4])
        return (
            f"{self.n_outliers.sum():.0f} outlier patches in {len(self.norm)} images (largest norm "
            f"{self.norm.mean():.1f} medians); {len(self.chosen)} neurons of layers "
            f"{self.layers[0]} to {self.layers[-1]}, first {first}: {self.at_outliers[0]:.2f} "
            f"there, {self.elsewhere[0]:.2f} elsewhere"
        )


@final
@dataclass(frozen=True, eq=False)
class _Seen:
    """One view of an image in the tower: neurons, norms, and which patches are outliers."""

    neurons: Float[Tensor, "layer patch d_mlp"]
    norms: Float[Tensor, "layer patch"]
    outlier: Bool[Tensor, " patch"]


@with_provenance
def register_neurons(
    lmm: LMM,
    images: Sequence[ImageInput],
    *,
    n: int = 10,
    layers: Layers | None = None,
    norm: float | None = None,
    spare: int | None = None,
    tick: Tick | None = None,
) -> RegisterNeurons:
    """Find register neurons: those of the vision encoder's MLPs that are active at outlier patches.

    Jiang et al. (2025), arXiv 2506.08010, algorithm 1: avg[l, n] is the mean over images of the
    mean activation of neuron n of layer l at the image's outliers; the `n` largest are returned.
    Outliers are patches of a large norm behind the last layer; images without any are left out.

    ```python
    found = ex.register_neurons(lmm, [image], norm=10.0)
    lmm.run(image, prompt, vi.edits.recipes.registers(found.neurons))
    ```

    **Arguments:**

    - `n`: how many neurons; 10 for OpenCLIP ViT-B/16 in the paper, 100 for the CLIP ViT-L/14 of a
        LLaVA.
    - `layers`: the layers to search; by default those up to the first behind which the outliers
        stand out (the paper's `top_layer`).
    - `norm`: the least norm of an outlier; by default three standard deviations above the mean of
        the image's patches. The paper takes 75 for OpenCLIP.
    - `spare`: how many tokens the tower puts before the patches (CLS, registers), which are none;
        by default those that do not go into the projector.
    - `tick`: called in the place of a progress bar, after every image.

    **Raises:** `LayoutError` if no image has an outlier; `InputError` for less than one neuron, or
    a negative `spare`; `CapabilityError` if the model does not offer its neurons.
    """
    if n < 1 or (spare is not None and spare < 0):
        raise InputError(f"n={n}, spare={spare}: at least one neuron, and no less than 0 tokens")
    seen: list[_Seen] = []
    tell = shown(tick, "images")
    for number, image in enumerate(images):
        seen += _views(lmm, image, norm, spare)
        tell(number + 1, len(images))
    found = [view for view in seen if view.outlier.any()]
    if not found or any(view.outlier.all() for view in found):
        which = "all patches of an image are outliers" if found else "no image has an outlier patch"
        raise LayoutError(
            f"{which} of {len(images)}: the largest norm is {_spread(seen):.1f} times the "
            f"median of its image; give a {'higher' if found else 'lower'} norm=, or other images"
        )
    searched = _until(found) if layers is None else resolve_layers(layers, len(found[0].norms))
    at, other = (
        torch.stack([v.neurons[list(searched)][:, v.outlier == one].mean(1) for v in found]).mean(0)
        for one in (True, False)
    )
    width = at.shape[1]
    best = at.flatten().argsort(descending=True, stable=True)[:n]
    return RegisterNeurons(
        tuple((searched[int(one) // width], int(one) % width) for one in best),
        at.flatten()[best].numpy(),
        other.flatten()[best].numpy(),
        np.array([float(view.outlier.sum()) for view in seen]),
        np.array([_largest(view) for view in seen]),
        searched,
    )


def _views(lmm: LMM, image: ImageInput, norm: float | None, spare: int | None) -> Iterator[_Seen]:
    """What the tower makes of the views of an image: itself, or its tiles."""
    layers = lmm.layers_with(NEURONS)
    neurons, leaving = Activation(NEURONS, layers), Activation(LEAVING, layers)
    ends = FEATURES.hook in lmm.hooks
    graph = neurons | leaving | FEATURES if ends else neurons | leaving
    run = lmm.run(image, "Describe the image.", graph)
    values, norms = run[neurons].values.float(), run[leaving].values.float().norm(dim=-1)
    patches = norms.shape[-1]
    if spare is None:
        spare = patches % run[FEATURES].values.shape[-2] if ends else 0
    for view in range(norms.shape[1]):
        own = norms[:, view, spare:]
        least = own[-1].mean() + SPREADS * own[-1].std(correction=0) if norm is None else norm
        yield _Seen(values[:, view, spare:], own, own[-1] > least)


def _until(found: list[_Seen]) -> tuple[int, ...]:
    """The layers up to the first behind which outliers stand out as they do at the end."""
    depth = len(found[0].norms)
    for layer in range(depth):
        far = [_far(view.norms[layer], view.outlier) for view in found]
        if sum(far) / len(far) > SPREADS:
            return tuple(range(layer + 1))
    return tuple(range(depth))


def _far(norms: Float[Tensor, " patch"], outlier: Bool[Tensor, " patch"]) -> float:
    """How far outliers lie above the mean of the others, in standard deviations of these."""
    others = norms[~outlier]
    return float((norms[outlier].mean() - others.mean()) / others.std(correction=0).clamp_min(1e-9))


def _largest(view: _Seen) -> float:
    return float(view.norms[-1].max() / view.norms[-1].median())


def _spread(seen: list[_Seen]) -> float:
    return max(map(_largest, seen), default=float("nan"))
