"""The vision stage: the tower learns what each patch shows, in the words of the language model."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from .data import patch_targets, patch_words, pixel_values
from .language import BACKGROUNDS, COLORS, SHAPES
from .model import build_tokenizer
from .scenes import scene


class PatchReadout(nn.Module):
    """Linear readouts of a patch's colour, shape, row, column and the image's background."""

    def __init__(self, width: int, grid: int) -> None:
        super().__init__()
        sizes = (len(COLORS) + 1, len(SHAPES) + 1, grid, grid, len(BACKGROUNDS))
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in sizes)

    def forward(self, features: Float[Tensor, "batch patch d_model"]) -> list[Tensor]:
        """Logits of the five, each [batch class patch]."""
        return [head(features).transpose(1, 2) for head in self.heads]


def word_distance(
    features: Float[Tensor, "batch patch d_model"],
    words: Int[Tensor, "batch patch word"],
    weight: Float[Tensor, "batch patch"],
    table: Float[Tensor, "vocabulary d_model"],
) -> Float[Tensor, ""]:
    """How far features are from the sum of their words' embeddings, in units of the latter."""
    wanted = (table[words.clamp(min=0)] * (words >= 0).unsqueeze(-1)).sum(2)
    far = (features - wanted).square().mean(-1) / table.square().mean()
    return (far * weight).sum() / weight.sum()


def vision_losses(
    model: LlavaForConditionalGeneration, readout: PatchReadout, first: int, size: int
) -> dict[str, Float[Tensor, ""]]:
    """Dense supervision of what the projector emits: what and where each patch is, in words too.

    Patches that an object only grazes have no target for colour, shape and words.
    """
    scenes = [scene(seed) for seed in range(first, first + size)]
    device = next(model.parameters()).device
    features = torch.stack(
        list(model.model.get_image_features(pixel_values(scenes).to(device)).pooler_output)
    )
    grid = math.isqrt(features.shape[1])
    patches = torch.arange(grid**2).expand(size, -1)
    ground = torch.tensor([BACKGROUNDS.index(one.background) for one in scenes])
    color, shape = patch_targets(scenes, tuple(COLORS), SHAPES)
    placed = (patches // grid, patches % grid, ground[:, None].expand(-1, grid**2))
    weight = torch.where((color >= 0) & (color < len(COLORS)), 8.0, 1.0) * (color >= 0)
    words = patch_words(scenes, build_tokenizer().get_vocab()).to(device)
    table = model.get_parameter("model.language_model.embed_tokens.weight").detach()
    terms = {"words": 0.25 * word_distance(features, words, weight.to(device), table)}
    names = ("color", "shape", "row", "column", "background")
    scales, targets = (4.0, 4.0, 0.3, 0.3, 0.3), (color, shape, *placed)
    for name, scale, logits, target in zip(names, scales, readout(features), targets, strict=True):
        terms[name] = scale * F.cross_entropy(logits, target.to(device))
    return terms
