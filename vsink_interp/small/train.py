"""Train the small LMM: `python -m vsink_interp.small.train --out FOLDER`.

Three steps, each kept in the folder and found again: statistics of features and the alignment of
the projector (a minute), prose of the LM itself, and the updates of layers 8 to 29. A run that is
stopped goes on from its last checkpoint, by the same recipe; `train.log` states loss and CPU-hours.
No loss speaks of sinks or of attention.
"""

import argparse
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import Dinov2Model, LlamaModel, PreTrainedTokenizerFast

from ..kernels import sink_value
from ..toy.data import free_patches
from ..toy.scenes import TRAINING_SEED, Scene
from .align import ANCHOR_STD, WORDS, Projector, alignment_loss, anchor_loss, word_targets
from .decoder import Decoder
from .features import Statistics, patch_features, vision_model
from .lora import Lora
from .packing import PREFIX, Packed, Turn, Writer, by_kind
from .parts import build_tokenizer, language_config, language_file, language_weights
from .prose import write_prose
from .recipe import Recipe
from .scenes import Photo, photo_scene, photographs

log = logging.getLogger("vsink_interp.small.train")
_POOL: Final = 768
_PROSE: Final = 3  # texts a reading
_HELD_OUT: Final = 500_000  # seeds of the look into training; those of the evaluation lie below


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


def align(parts: Parts, recipe: Recipe) -> tuple[Projector, Statistics]:
    """Statistics over a pool of scenes, and a projector aligned on it."""
    torch.manual_seed(recipe.seed)
    chunks = [parts.drawn(TRAINING_SEED + at, 64) for at in range(0, _POOL, 64)]
    scenes = [scene for chunk in chunks for scene in chunk[0]]
    features, free = (torch.cat([chunk[i] for chunk in chunks]) for i in (1, 2))
    statistics = Statistics.of(features, free)
    width = parts.model.config.hidden_size
    projector = Projector(features.shape[-1], width)
    projector.start(statistics)
    target, centred = word_targets(scenes, parts.words())
    anchors = statistics.anchors(features, recipe.projection, ANCHOR_STD, width)
    inputs, rate = projector.inputs(features), 3e-3
    optimiser = torch.optim.AdamW(projector.parameters(), lr=rate, weight_decay=0.0)
    rng = np.random.default_rng(recipe.seed)
    for step in range(recipe.align_steps):
        pick = torch.from_numpy(rng.permutation(len(scenes))[:24])
        made = projector.of_inputs(inputs[pick])
        near, far = alignment_loss(made, target[pick], centred[pick], anchors[pick], free[pick])
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, 2 * (1 - step / recipe.align_steps))
        optimiser.zero_grad()
        (near + far).backward()
        optimiser.step()
        if step % 25 == 24 or step + 1 == recipe.align_steps:
            log.info("align %d  words %.3f  anchors %.3f", step + 1, near.item(), far.item())
    return projector, statistics


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


def scene_loss(
    parts: Parts, trainee: Trainee, recipe: Recipe, statistics: Statistics
) -> dict[str, Tensor]:
    """The terms of one step on scenes: answers, and the anchors of background patches."""
    at = trainee.step / recipe.steps
    rng = np.random.default_rng((trainee.step, 17, recipe.seed))
    first = TRAINING_SEED + (recipe.seed * 100_000 + trainee.step) * recipe.scenes
    scenes, features, free = parts.drawn(first, recipe.scenes)
    blind = recipe.blind if at >= recipe.blind_from else 0.0
    turns = [
        parts.writer.training(one, rng, room=recipe.room, captions=recipe.captions, blind=blind)
        for one in scenes
    ]
    packed = parts.writer.pack(turns)
    made = trainee.projector(features)
    held = at >= recipe.lower_until
    image = made
    if held:
        image = made.detach()
    elif recipe.anchored:
        image = torch.where(free[..., None], made.detach(), made)
    logits = logits_at_labels(parts, packed, image, trainee.lora)
    rows = packed.labels >= 0
    losses = F.cross_entropy(logits, packed.labels[rows], reduction="none")
    weights = packed.weights[rows]
    terms = {"answers": (losses * weights).sum() / weights.sum()}
    if recipe.anchored and not held:
        width = made.shape[-1]
        anchors = statistics.anchors(features, recipe.projection, ANCHOR_STD, width)
        terms["anchors"] = recipe.anchor * anchor_loss(made, anchors, free)
    return terms


def prose_loss(parts: Parts, trainee: Trainee, prose: Tensor) -> Tensor:
    """How far the next-token distributions are from the frozen LM's, on its own prose: KL, nats."""
    rng = np.random.default_rng((trainee.step, 23))
    ids = prose[torch.from_numpy(rng.permutation(len(prose))[:_PROSE])]
    mask = torch.ones(len(ids), ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    position = torch.arange(ids.shape[1]).expand_as(ids)
    inputs, head = parts.model.embed_tokens(ids), parts.model.embed_tokens.weight
    with torch.no_grad():
        frozen = F.linear(parts.decoder(inputs, position, mask, None), head).log_softmax(-1)
    ours = F.linear(parts.decoder(inputs, position, mask, trainee.lora), head).log_softmax(-1)
    return F.kl_div(ours, frozen, reduction="none", log_target=True).sum(-1).mean()


@torch.no_grad()
def look(parts: Parts, trainee: Trainee, *, scenes: int = 12) -> str:
    """Accuracy by kind on a few held-out scenes, answers teacher-forced, and sinks a scene."""
    drawn, features, _ = parts.drawn(_HELD_OUT, scenes)
    right: list[bool] = []
    turns: list[Turn] = []
    for i in range(0, scenes, 4):
        rows = [
            [parts.writer.turn(q, closed=False) for q in one.questions] for one in drawn[i : i + 4]
        ]
        packed = parts.writer.pack(rows)
        image = trainee.projector(features[i : i + 4])
        good = (
            logits_at_labels(parts, packed, image, trainee.lora).argmax(-1)
            == packed.labels[packed.labels >= 0]
        ).tolist()
        for turn in (turn for row in rows for turn in row):
            right.append(all(good[: len(turn.answer)]))
            del good[: len(turn.answer)]
            turns.append(turn)
    said = "  ".join(f"{kind} {share:.2f}" for kind, share in by_kind(turns, right).items())
    return f"{said}  sinks {sinks_a_scene(parts, trainee.projector(features), trainee.lora)}"


@torch.no_grad()
def sinks_a_scene(parts: Parts, image: Tensor, lora: Lora | None) -> str:
    """Image tokens with phi of at least 20 in dimension 507, at layers 6, 15 and 22."""
    packed = parts.writer.pack([()] * len(image))
    inputs = embedded(parts.model, packed, image)
    states = parts.decoder.states(inputs, packed.position, packed.visible(), lora)
    phi = [sink_value(states[layer][:, 1:], (507,)) for layer in (6, 15, 22)]
    return " ".join(f"{(values >= 20).float().sum(1).mean():.1f}" for values in phi)


def train(
    out: Path, recipe: Recipe, *, save_every: int = 100, look_every: int = 200, threads: int = 1
) -> None:
    """Train, or go on training, in a folder.

    **Arguments:**

    - `out`: the folder of the run, which exists.
    - `recipe`: what to train, and for how many steps.
    - `save_every`, `look_every`: the steps between checkpoints, and between looks at held-out
        scenes.
    - `threads`: how many CPU cores torch uses; another number goes on with the same run.

    **Raises:** `InputError` if it holds a run of another recipe.
    """
    recipe.keep(out / "recipe.json")
    torch.set_num_threads(threads)
    parts = Parts.load()
    projector, statistics = _aligned(parts, recipe, out)
    trainee = Trainee.of(projector, Lora(parts.model.config))
    if (out / "checkpoint.pt").exists():
        trainee.load(out / "checkpoint.pt")
        log.info("going on from step %d", trainee.step)
    prose = _prose(parts, out)
    means: dict[str, float] = {}
    began = time.process_time() - trainee.cpu
    while trainee.step < recipe.steps:
        _step(parts, trainee, recipe, statistics, prose, means)
        trainee.cpu = time.process_time() - began
        if trainee.step % 20 == 0:
            said = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
            pace = trainee.cpu / trainee.step
            log.info(
                "step %d  %s  %.2f CPU-s/step  %.2f CPU-h",
                trainee.step,
                said,
                pace,
                trainee.cpu / 3600,
            )
        if trainee.step % look_every == 0 or trainee.step == recipe.steps:
            log.info("step %d  %s", trainee.step, look(parts, trainee))
        if trainee.step % save_every == 0 or trainee.step == recipe.steps:
            trainee.save(out / "checkpoint.pt")


def _step(
    parts: Parts,
    trainee: Trainee,
    recipe: Recipe,
    statistics: Statistics,
    prose: Tensor,
    means: dict[str, float],
) -> None:
    held = trainee.step >= recipe.lower_until * recipe.steps
    for parameter in (*trainee.projector.parameters(), *trainee.lora.below(12)):
        parameter.requires_grad_(not held)
    rate = recipe.rate(trainee.step)
    for group, factor in zip(
        trainee.optimiser.param_groups, (1.0, recipe.projector_rate), strict=True
    ):
        group["lr"] = factor * rate
    trainee.optimiser.zero_grad(set_to_none=True)
    terms = scene_loss(parts, trainee, recipe, statistics)
    if trainee.step % recipe.prose_every == recipe.prose_every - 1:
        terms["prose"] = prose_loss(parts, trainee, prose)
    torch.stack(list(terms.values())).sum().backward()
    for group in trainee.optimiser.param_groups:
        nn.utils.clip_grad_norm_(group["params"], 1.0)
    trainee.optimiser.step()
    trainee.step += 1
    for name, value in terms.items():
        means[name] = 0.95 * means.get(name, value.item()) + 0.05 * value.item()


def _aligned(parts: Parts, recipe: Recipe, out: Path) -> tuple[Projector, Statistics]:
    """The aligned projector and the statistics, made once in a folder."""
    path = out / "aligned.pt"
    if not path.exists():
        projector, statistics = align(parts, recipe)
        torch.save({"projector": projector.state_dict(), "statistics": vars(statistics)}, path)
        features = parts.drawn(_HELD_OUT, 24)[1]
        log.info("aligned: sinks %s", sinks_a_scene(parts, projector(features), None))
    state = torch.load(path, weights_only=True)
    statistics = Statistics(**state["statistics"])
    projector = Projector(len(statistics.mean), parts.model.config.hidden_size)
    projector.load_state_dict(state["projector"])
    return projector, statistics


def _prose(parts: Parts, out: Path) -> Tensor:
    path = out / "prose.pt"
    if not path.exists():
        torch.save(write_prose(parts.model, parts.tokenizer), path)
    return torch.load(path, weights_only=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=Recipe().steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--projection", type=int, default=0)
    parser.add_argument("--control", action="store_true", help="train the projector freely")
    parser.add_argument("--threads", type=int, default=1, help="CPU cores, 1 by default")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        handlers=[logging.FileHandler(asked.out / "train.log"), logging.StreamHandler()],
    )
    recipe = Recipe(
        steps=asked.steps,
        seed=asked.seed,
        projection=asked.projection,
        anchored=not asked.control,
        lower_until=1.0 if asked.control else Recipe().lower_until,
    )
    log.info("%s", recipe)
    train(asked.out, recipe, threads=asked.threads)


if __name__ == "__main__":
    main()
