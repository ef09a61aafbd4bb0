"""What a step of training computes: scenes and what is asked about them, and the terms of its loss.

No term speaks of sinks or of attention.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import Dinov2Model, LlamaModel, PreTrainedTokenizerFast

from ..toy.data import free_patches
from ..toy.scenes import TRAINING_SEED, Scene
from .align import ANCHOR_STD, WORDS, Projector, anchor_loss
from .decoder import Decoder
from .features import Statistics, patch_features, vision_model
from .lora import Lora
from .packing import PREFIX, Packed, Turn, Writer
from .parts import build_tokenizer, language_config, language_file, language_weights
from .prose import TEXTS, Prose
from .recipe import Recipe
from .scenes import Photo, photo_scene, photographs


@dataclass(eq=False)
class Parts:
    """Everything that a run trains or reads."""

    decoder: Decoder
    tokenizer: PreTrainedTokenizerFast
    vision: Dinov2Model
    photos: tuple[Photo, ...]
    writer: Writer

    @classmethod
    def load(cls) -> "Parts":
        """From the two packages."""
        file = language_file()
        model = LlamaModel(language_config(file))
        model.load_state_dict(language_weights(file))
        tokenizer = build_tokenizer(file)
        return cls(Decoder.of(model), tokenizer, vision_model(), photographs(), Writer(tokenizer))

    @property
    def model(self) -> LlamaModel:
        """The frozen LM."""
        return self.decoder.model

    def words(self) -> dict[str, Tensor]:
        """The LM's embedding of each of `WORDS`, as it stands inside a sentence."""
        found = {}
        for word in WORDS:
            (token,) = self.writer.ids(f" {word}")
            found[word] = self.model.embed_tokens.weight[token].detach()
        return found

    def drawn(
        self, first: int, count: int
    ) -> tuple[list[Scene], Tensor, Bool[Tensor, "scene patch"]]:
        """Scenes from a seed on, the features of their patches, and which hold no object."""
        scenes = [photo_scene(seed, self.photos) for seed in range(first, first + count)]
        return scenes, patch_features(self.vision, scenes), free_patches(scenes)


@dataclass(eq=False)
class Trainee:
    """What training changes, and where it stands."""

    projector: Projector
    lora: Lora
    optimiser: torch.optim.Optimizer
    step: int = 0
    cpu: float = 0.0

    @classmethod
    def of(cls, projector: Projector, lora: Lora) -> "Trainee":
        """With a fresh optimiser."""
        groups: list[dict[str, Any]] = [
            {"params": list(lora.parameters())},
            {"params": list(projector.parameters())},
        ]
        return cls(projector, lora, torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0))

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        part = path.with_suffix(".part")
        state = {
            name: getattr(self, name).state_dict() for name in ("projector", "lora", "optimiser")
        }
        torch.save(state | {"step": self.step, "cpu": self.cpu}, part)
        part.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state = torch.load(path, weights_only=True)
        for name in ("projector", "lora", "optimiser"):
            getattr(self, name).load_state_dict(state[name])
        self.step, self.cpu = state["step"], state["cpu"]


def embedded(
    model: LlamaModel, packed: Packed, image: Float[Tensor, "batch patch d_model"]
) -> Float[Tensor, "batch token d_model"]:
    """Token embeddings, with the image's in their places."""
    tokens = model.embed_tokens(packed.ids)
    return torch.cat([tokens[:, :1], image, tokens[:, PREFIX:]], 1)


def logits_at_labels(parts: Parts, packed: Packed, image: Tensor, lora: Lora | None) -> Tensor:
    """Logits of the rows that predict an answer token."""
    rows = packed.labels >= 0
    inputs = embedded(parts.model, packed, image)
    final = parts.decoder(inputs, packed.position, packed.visible(), lora)
    return F.linear(final[rows], parts.model.embed_tokens.weight)


@dataclass(frozen=True, eq=False)
class Lesson:
    """The scenes of one step and what is asked about them; `free` are patches without an object."""

    scenes: Sequence[Scene]
    turns: Sequence[Sequence[Turn]]
    free: Bool[Tensor, "scene patch"]

    @classmethod
    def of(cls, parts: Parts, recipe: Recipe, step: int) -> "Lesson":
        """Those of a step, the same every time."""
        rng = np.random.default_rng((step, 17, recipe.seed))
        first = TRAINING_SEED + (recipe.seed * 100_000 + step) * recipe.scenes
        scenes = [photo_scene(first + i, parts.photos) for i in range(recipe.scenes)]
        blind = recipe.blind if step >= recipe.blind_from * recipe.steps else 0.0
        turns = [
            parts.writer.training(one, rng, room=recipe.room, captions=recipe.captions, blind=blind)
            for one in scenes
        ]
        return cls(scenes, turns, free_patches(scenes))


def scene_loss(
    parts: Parts,
    trainee: Trainee,
    recipe: Recipe,
    statistics: Statistics,
    lesson: Lesson,
    number: int,
) -> dict[str, Tensor]:
    """What one scene adds to the terms of a step: answers, and the anchors of background patches.

    Both are means over all of the step's answer tokens and background patches: the terms of all
    scenes add up to the step's.

    **Arguments:**

    - `number`: the place of the scene in the lesson.
    """
    features = patch_features(parts.vision, lesson.scenes[number : number + 1])
    free = lesson.free[number : number + 1]
    packed = parts.writer.pack(lesson.turns[number : number + 1])
    made = trainee.projector(features)
    held = recipe.holds(trainee.step)
    image = made
    if held:
        image = made.detach()
    elif recipe.anchored:
        image = torch.where(free[..., None], made.detach(), made)
    logits = logits_at_labels(parts, packed, image, trainee.lora)
    rows = packed.labels >= 0
    losses = F.cross_entropy(logits, packed.labels[rows], reduction="none")
    asked = sum(sum(turn.weights) for turns in lesson.turns for turn in turns)
    terms = {"answers": (losses * packed.weights[rows]).sum() / asked}
    if recipe.anchored and not held:
        anchors = statistics.anchors(features, recipe.projection, ANCHOR_STD, made.shape[-1])
        share = free.sum() / lesson.free.sum()
        terms["anchors"] = recipe.anchor * share * anchor_loss(made, anchors, free)
    return terms


def prose_loss(parts: Parts, trainee: Trainee, prose: Prose, numbers: Sequence[int]) -> Tensor:
    """How far the next-token distributions are from the frozen LM's, on its own prose: KL, nats.

    **Arguments:**

    - `numbers`: the texts that are read. The mean is over `TEXTS` of them, a step's.
    """
    texts = torch.tensor(numbers)
    head = parts.model.embed_tokens.weight
    with torch.no_grad():
        frozen = F.linear(prose.final[texts], head).softmax(-1)
    final = prose.read(parts.decoder, texts, trainee.lora)
    crossed = F.cross_entropy(
        F.linear(final, head).flatten(0, 1), frozen.flatten(0, 1), reduction="sum"
    )
    return (crossed - prose.entropy[texts].sum()) / (TEXTS * prose.ids.shape[1])
