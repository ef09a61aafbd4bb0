"""Train the small LMM: `python -m vsink_interp.small.train --out FOLDER`.

Three steps, each kept in the folder and found again: statistics of features and the alignment of
the projector (a minute), prose of the LM itself, and the updates of layers 8 to 29. A run that is
stopped goes on from its last checkpoint, by the same recipe; `train.log` states loss and CPU-hours.
No loss speaks of sinks or of attention.
"""

import argparse
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError
from ..kernels import sink_value
from ..toy.scenes import TRAINING_SEED
from .align import ANCHOR_STD, Projector, alignment_loss, word_targets
from .features import Statistics
from .lessons import (
    Lesson,
    Parts,
    Trainee,
    embedded,
    logits_at_labels,
    prose_loss,
    scene_loss,
)
from .lora import Lora
from .packing import Turn, by_kind
from .prose import Prose, write_prose
from .recipe import Recipe

log = logging.getLogger("vsink_interp.small.train")
_POOL: Final = 768
_PROSE_SHARES: Final = 2
_HELD_OUT: Final = 500_000  # seeds of the look into training; those of the evaluation lie below


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
    - `threads`: how many CPU cores share a step; another number goes on with the same run, and
        changes no bit of it.

    **Raises:** `InputError` if it holds a run of another recipe, or of `threads` that no step has
    work for.
    """
    most = recipe.scenes + _PROSE_SHARES
    if not 1 <= threads <= most:
        raise InputError(f"threads={threads}: a step is shared by 1 to {most}")
    recipe.keep(out / "recipe.json")
    torch.set_num_threads(1)
    parts = Parts.load()
    projector, statistics = _aligned(parts, recipe, out)
    trainee = Trainee.of(projector, Lora(parts.model.config))
    if (out / "checkpoint.pt").exists():
        trainee.load(out / "checkpoint.pt")
        log.info("going on from step %d", trainee.step)
    means: dict[str, float] = {}
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        prose = _prose(parts, out, pool)
        began = time.process_time() - trainee.cpu
        while trainee.step < recipe.steps:
            for name, value in _step(parts, trainee, recipe, statistics, prose, pool).items():
                means[name] = 0.95 * means.get(name, value) + 0.05 * value
            trainee.cpu = time.process_time() - began
            if trainee.step % 20 == 0:
                _say(trainee, means)
            if trainee.step % look_every == 0 or trainee.step == recipe.steps:
                log.info("step %d  %s", trainee.step, look(parts, trainee))
            if trainee.step % save_every == 0 or trainee.step == recipe.steps:
                trainee.save(out / "checkpoint.pt")


def _say(trainee: Trainee, means: Mapping[str, float]) -> None:
    said = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
    pace = trainee.cpu / trainee.step
    log.info(
        "step %d  %s  %.2f CPU-s/step  %.2f CPU-h", trainee.step, said, pace, trainee.cpu / 3600
    )


def _step(
    parts: Parts,
    trainee: Trainee,
    recipe: Recipe,
    statistics: Statistics,
    prose: Prose,
    pool: Executor,
) -> dict[str, float]:
    """One step, its parts shared out among the pool's threads; what each term was."""
    held = recipe.holds(trainee.step)
    for parameter in (*trainee.projector.parameters(), *trainee.lora.below(12)):
        parameter.requires_grad_(not held)
    groups, rate = trainee.optimiser.param_groups, recipe.rate(trainee.step)
    for group, factor in zip(groups, (1.0, recipe.projector_rate), strict=True):
        group["lr"] = factor * rate
    trainee.optimiser.zero_grad(set_to_none=True)
    changed = [p for group in groups for p in group["params"] if p.requires_grad]
    means: dict[str, float] = {}
    for terms, gradients in pool.map(
        lambda share: _gradients(share, changed), _shares(parts, trainee, recipe, statistics, prose)
    ):
        for name, value in terms.items():
            means[name] = means.get(name, 0.0) + value
        for parameter, gradient in zip(changed, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
    for group in groups:
        nn.utils.clip_grad_norm_(group["params"], 1.0)
    trainee.optimiser.step()
    trainee.step += 1
    return means


def _shares(
    parts: Parts, trainee: Trainee, recipe: Recipe, statistics: Statistics, prose: Prose
) -> list[Callable[[], dict[str, Tensor]]]:
    """What a step computes, in parts whose terms are added up: one a scene, and two of prose."""
    lesson = Lesson.of(parts, recipe, trainee.step)
    shares: list[Callable[[], dict[str, Tensor]]] = [
        partial(scene_loss, parts, trainee, recipe, statistics, lesson, number)
        for number in range(recipe.scenes)
    ]
    if trainee.step % recipe.prose_every == recipe.prose_every - 1:
        drawn = prose.drawn(trainee.step)
        shares += [
            lambda numbers=numbers: {"prose": prose_loss(parts, trainee, prose, numbers)}
            for numbers in (drawn[::_PROSE_SHARES], drawn[1::_PROSE_SHARES])
        ]
    return shares


def _gradients(
    share: Callable[[], dict[str, Tensor]], changed: Sequence[Tensor]
) -> tuple[dict[str, float], Sequence[Tensor | None]]:
    terms = share()
    total = torch.stack(list(terms.values())).sum()
    found = torch.autograd.grad(total, changed, allow_unused=True)
    return {name: value.item() for name, value in terms.items()}, found


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


def _prose(parts: Parts, out: Path, pool: Executor) -> Prose:
    path = out / "prose.pt"
    if not path.exists():
        torch.save(write_prose(parts.model, parts.tokenizer), path)
    return Prose.of(parts.decoder, torch.load(path, weights_only=True), pool)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=Recipe().steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--projection", type=int, default=0)
    parser.add_argument("--control", action="store_true", help="train the projector freely")
    parser.add_argument(
        "--threads", type=int, default=1, help="CPU cores that share a step, 1 by default"
    )
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
