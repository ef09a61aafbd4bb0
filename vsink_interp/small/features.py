"""What the projector reads, DINOv2's hidden states 4 and last of each patch; their statistics."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from transformers import Dinov2Model

from ..toy.scenes import Scene
from .parts import IMAGE_SIZE, vision_config, vision_weights

LAYERS: Final = (4, -1)
MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)
COMPONENTS: Final = 192
_FLOOR: Final = 3e-4
"""The least spread of an axis, relative to the widest, that is scaled up to 1."""


def vision_model() -> Dinov2Model:
    """DINOv2-small, frozen."""
    model = Dinov2Model(vision_config())
    model.load_state_dict(vision_weights())
    return model.requires_grad_(False).eval()


def pixel_values(images: Sequence[Image.Image]) -> Float[Tensor, "batch channel height width"]:
    """What the processor makes of images: 112 x 112 pixels, bicubic, normalised as ImageNet is."""
    size = (IMAGE_SIZE, IMAGE_SIZE)
    resized = [image.convert("RGB").resize(size, Image.Resampling.BICUBIC) for image in images]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in resized]))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std


@torch.no_grad()
def patch_features(
    model: Dinov2Model, scenes: Sequence[Scene]
) -> Float[Tensor, "batch patch feature"]:
    """Hidden states 4 and last of every patch, side by side."""
    states = model(pixel_values([one.image for one in scenes]), output_hidden_states=True)
    return torch.cat([states.hidden_states[layer][:, 1:] for layer in LAYERS], -1)


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and axes of features, and the map that whitens those of background patches.

    `basis` decorrelates and scales all of them; axes with little spread are left small.
    """

    mean: Float[Tensor, " feature"]
    basis: Float[Tensor, "feature component"]
    ground: Float[Tensor, " feature"]
    whiten: Float[Tensor, "feature component"]

    @classmethod
    def of(
        cls, features: Float[Tensor, "scene patch feature"], free: Bool[Tensor, "scene patch"]
    ) -> "Statistics":
        """Those of a pool of scenes; `free` are the patches without an object."""
        flat, ground = features.flatten(0, 1), features[free]
        scaled = 1 / flat.std(0)
        value, vector = torch.linalg.eigh(torch.cov((flat * scaled).T))
        basis = scaled[:, None] * vector / value.clamp(min=value.max() * _FLOOR).sqrt()
        value, vector = torch.linalg.eigh(torch.cov(ground.T))
        top, axes = value.flip(0)[:COMPONENTS], vector.flip(1)[:, :COMPONENTS]
        return cls(flat.mean(0), basis, ground.mean(0), axes / top.sqrt())

    def anchors(
        self, features: Float[Tensor, "*batch feature"], seed: int, std: float, width: int
    ) -> Float[Tensor, "*batch d_model"]:
        """A fixed random linear projection of the whitened features, with the given deviation."""
        noise = torch.Generator().manual_seed(seed)
        components = self.whiten.shape[1]
        projection = torch.randn(components, width, generator=noise) * std / components**0.5
        return (features - self.ground) @ self.whiten @ projection
