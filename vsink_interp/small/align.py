"""Alignment: the projector learns, without running the LM, to speak in word embeddings.

A patch in which an object is centred becomes .75 x (colour + shape) + .6 x (row + column), word
embeddings of SmolLM2. A background patch becomes a fixed random projection of its feature.
"""

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..toy.data import patch_words
from ..toy.language import BACKGROUNDS, COLORS, COLUMNS, ROWS, SHAPES
from ..toy.scenes import Scene
from .features import Statistics

ANCHOR_STD: Final = 0.02
WORDS: Final = (*COLORS, *SHAPES, *BACKGROUNDS, *ROWS, *COLUMNS)


class Projector(nn.Module):
    """A two-layer projector over decorrelated features; `folded` is transformers' own.

    Hidden states 4 and last differ fifty-fold in scale, and their axes in spread by more: with
    decorrelated inputs one learning rate suits all. They are a linear map, which folds into the
    first layer.
    """

    mean: Tensor
    basis: Tensor

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(features, width)
        self.linear_2 = nn.Linear(width, width)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("basis", torch.eye(features))

    def inputs(
        self, features: Float[Tensor, "*batch feature"]
    ) -> Float[Tensor, "*batch component"]:
        """Features, decorrelated."""
        return (features - self.mean) @ self.basis

    def of_inputs(
        self, inputs: Float[Tensor, "*batch component"]
    ) -> Float[Tensor, "*batch d_model"]:
        """Decorrelated features as embeddings."""
        return self.linear_2(nn.functional.gelu(self.linear_1(inputs)))

    def forward(self, features: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch d_model"]:
        """Features as embeddings."""
        return self.of_inputs(self.inputs(features))

    def start(self, statistics: Statistics) -> None:
        """Take the inputs' mean and axes from the statistics."""
        self.mean.copy_(statistics.mean)
        self.basis.copy_(statistics.basis)

    @torch.no_grad()
    def folded(self) -> dict[str, Tensor]:
        """Weights and biases of `linear_1` and `linear_2` over the features as they are."""
        first = self.linear_1.weight @ self.basis.T
        return {
            "linear_1.weight": first,
            "linear_1.bias": self.linear_1.bias - first @ self.mean,
            "linear_2.weight": self.linear_2.weight.detach(),
            "linear_2.bias": self.linear_2.bias.detach(),
        }


def word_targets(
    scenes: Sequence[Scene], words: dict[str, Tensor]
) -> tuple[Float[Tensor, "scene patch d_model"], Bool[Tensor, "scene patch"]]:
    """The target of every patch, and the patches that have one: those with an object's centre.

    **Arguments:**

    - `words`: the embedding of each of `WORDS`.
    """
    table = torch.stack([words[word] for word in WORDS])
    told = patch_words(scenes, {word: number for number, word in enumerate(WORDS)})
    centred = told[..., 3] >= 0
    row, column, color, shape = (table[told[..., i].clamp(min=0)] for i in range(4))
    target = 0.75 * (color + shape) + 0.6 * (row + column)
    return target, centred


def alignment_loss(
    made: Tensor, target: Tensor, centred: Tensor, anchors: Tensor, free: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean squared errors of object centres and of background, each relative to its targets."""
    near = (made - target)[centred].square().mean() / target[centred].var(0).mean()
    return near, anchor_loss(made, anchors, free)


def anchor_loss(made: Tensor, anchors: Tensor, free: Tensor) -> Tensor:
    """How far background patches are from their anchors, relative to the anchors' spread."""
    return (made - anchors)[free].square().mean() / ANCHOR_STD**2
