"""Train the toy LMM from nothing: `python -m vsink_interp.toy.train --out FOLDER`.

The run is seeded, writes `train.log`, keeps every finished stage (and resumes after the last one
found), saves a loadable model in `FOLDER/weights`, and ends with the evaluation.
"""

import argparse
import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from .card import render
from .data import Examples, draw
from .evaluate import evaluate, quick_look
from .forward import Watch, embed, trace
from .losses import FactReadout, PlaceReadout, answer_loss, grounding_loss, seed_sinks
from .model import build_model, build_tokenizer, save
from .packing import CONTEXT, GENERATED, QUERY, Batch, hide, visible
from .scenes import TRAINING_SEED
from .schedule import SCHEDULE, Stage
from .vision import PatchReadout, vision_losses

log = logging.getLogger("vsink_interp.toy.train")
_CLOSED_LAYERS = 2


def learning_rate(stage: Stage, step: int) -> float:
    """Linear warm-up, then a cosine from `lr` to `lr_end`."""
    if step < stage.warmup:
        return stage.lr * (step + 1) / stage.warmup
    along = (step - stage.warmup) / max(1, (stage.cosine_steps or stage.steps) - stage.warmup)
    return stage.lr_end + (stage.lr - stage.lr_end) * (1 + math.cos(math.pi * along)) / 2


def layer_masks(
    batch: Batch, stage: Stage, layers: int, rng: np.random.Generator
) -> list[Bool[Tensor, "batch query key"]]:
    """The masks of one training step, one a layer; equal layers share one tensor."""
    turns = int(batch.turn.max()) + 2
    rows, device = batch.ids.shape[0], batch.ids.device

    def chosen(share: float) -> Bool[Tensor, "batch token"]:
        drawn = torch.from_numpy(rng.random((rows, turns)) < share).to(device)
        return drawn.gather(1, batch.turn.clamp(min=0)) & (batch.turn > 0)

    text = (batch.role == QUERY) | (batch.role == GENERATED)
    context = (batch.role == CONTEXT) & (batch.turn == 0)
    head = (batch.turn == 0) & (batch.role != CONTEXT)
    middle = hide(visible(batch), chosen(stage.no_head), head)
    middle = hide(middle, chosen(stage.blind_answer) & (batch.role == GENERATED), context)
    early = hide(middle, chosen(stage.closed_early) & text, context)
    late = hide(middle, chosen(stage.closed_late) & text, context)
    inner = layers - 2 * _CLOSED_LAYERS
    return [early] * _CLOSED_LAYERS + [middle] * inner + [late] * _CLOSED_LAYERS


def _watch(examples: Examples, stage: Stage) -> Watch:
    """What of attention the losses of a stage need; nothing where scenes are told in words."""
    batch = examples.batch
    if examples.pixels is None or not (stage.grounding or stage.stray):
        return Watch()
    sought = (3, 4) if stage.grounding else ()
    if not stage.stray:
        return Watch(batch.source, sought)
    idle = (batch.role == CONTEXT) & (batch.turn == 0)
    idle[idle.clone()] = examples.free.flatten()
    return Watch(batch.source, sought, idle, batch.turn > 0)


def language_losses(
    model: LlavaForConditionalGeneration,
    examples: Examples,
    stage: Stage,
    rng: np.random.Generator,
    readouts: tuple[PlaceReadout, FactReadout],
) -> dict[str, Float[Tensor, ""]]:
    """The terms of the loss of one step, already weighted."""
    batch, has_pixels = examples.batch, examples.pixels is not None
    masks = layer_masks(batch, stage, model.config.get_text_config().num_hidden_layers, rng)
    embedded = embed(model, batch.ids, examples.pixels)
    traced = trace(model, embedded, batch.position, masks, _watch(examples, stage))
    terms = {"answer": answer_loss(model, traced, batch)}
    if traced.found:
        terms["grounding"] = stage.grounding * grounding_loss(traced, heads=2)
    if stage.places and has_pixels:
        terms["places"] = stage.places * readouts[0](traced, batch)
    if stage.facts:
        terms["facts"] = stage.facts * readouts[1](traced, batch)
    if stage.head_penalty:
        terms["heads"] = stage.head_penalty * traced.head_norm
    if stage.stray and has_pixels:
        terms["stray"] = stage.stray * traced.stray
    if stage.sink_weight and has_pixels:
        terms["sinks"] = stage.sink_weight * seed_sinks(traced, batch, examples.free)
    return terms


def _language_groups(
    model: LlavaForConditionalGeneration, readouts: Sequence[nn.Module], vision_rate: float
) -> list[tuple[list[nn.Parameter], float]]:
    """What a language stage trains, with the factor of its learning rate; the rest is frozen."""
    eyes = (model.model.vision_tower, model.model.multi_modal_projector)
    seeing = {id(p): p for module in eyes for p in module.parameters()}
    speaking = [p for p in model.parameters() if id(p) not in seeing]
    for parameter in seeing.values():
        parameter.requires_grad_(vision_rate > 0)
    reading = [p for readout in readouts for p in readout.parameters()]
    groups = [([*speaking, *reading], 1.0)]
    return [*groups, ([*seeing.values()], vision_rate)] if vision_rate else groups


def _terms(
    model: LlavaForConditionalGeneration, stage: Stage, offset: int, device: torch.device
) -> Iterator[tuple[dict[str, Tensor], list[tuple[list[nn.Parameter], float]]]]:
    """For each step its loss terms; the groups of parameters to train come with them."""
    width = model.config.get_text_config().hidden_size
    if stage.kind == "vision":
        readout = PatchReadout(width, math.isqrt(model.config.image_seq_length)).to(device)
        modules = (model.model.vision_tower, model.model.multi_modal_projector, readout)
        trained = [p for module in modules for p in module.parameters()]
        for step in range(stage.steps):
            first = TRAINING_SEED + (offset + step) * stage.batch
            yield vision_losses(model, readout, first, stage.batch), [(trained, 1.0)]
        return
    tokenizer = build_tokenizer()
    readouts = (PlaceReadout(width).to(device), FactReadout(width).to(device))
    groups = _language_groups(model, readouts, stage.vision_rate)
    for step in range(stage.steps):
        rng = np.random.default_rng((offset + step, 11))
        examples = _examples(tokenizer, stage, offset + step, rng.random() < stage.told, device)
        yield language_losses(model, examples, stage, rng, readouts), groups


def _examples(
    tokenizer: PreTrainedTokenizerFast, stage: Stage, number: int, told: bool, device: torch.device
) -> Examples:
    drawn = draw(
        tokenizer,
        number,
        stage.batch,
        questions=stage.questions,
        first_weight=stage.first_weight,
        words=told,
        kinds=stage.kinds,
        repeated=stage.repeated,
        mentions=stage.mentions,
        whole_answers=stage.whole_answers,
    )
    pixels = None if drawn.pixels is None else drawn.pixels.to(device)
    return Examples(drawn.batch.to(device), pixels, drawn.free.to(device))


def run_stage(
    model: LlavaForConditionalGeneration, stage: Stage, offset: int, look_every: int, out: Path
) -> None:
    """Train the model in place through one stage, and look at it now and then."""
    device = next(model.parameters()).device
    optimiser, started, means = None, time.monotonic(), {}
    for step, (terms, groups) in enumerate(_terms(model, stage, offset, device)):
        trained = [parameter for group, _ in groups for parameter in group]
        if optimiser is None:
            made = [{"params": group} for group, _ in groups]
            optimiser = torch.optim.AdamW(made, betas=(0.9, 0.99), weight_decay=0.0)
        for group, (_, factor) in zip(optimiser.param_groups, groups, strict=True):
            group["lr"] = factor * learning_rate(stage, step)
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        for name, value in terms.items():
            means[name] = 0.98 * means.get(name, value.item()) + 0.02 * value.item()
        if (step + 1) % 100 == 0 or step + 1 == stage.steps:
            said = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
            pace = (time.monotonic() - started) / (step + 1)
            log.info("%s %5d/%d  %s  %.3f s/step", stage.name, step + 1, stage.steps, said, pace)
        if stage.kind == "language" and stage.told < 1 and (step + 1) % look_every == 0:
            log.info("%s %5d  %s", stage.name, step + 1, quick_look(model, build_tokenizer()))
            save(model, out / "weights")


def train(
    out: Path, *, schedule: Sequence[Stage] = SCHEDULE, seed: int = 0, look_every: int = 500
) -> LlavaForConditionalGeneration:
    """Run the schedule, or what is left of it in `out`, and save the model there."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(seed).to(device)
    started, offset = time.monotonic(), 0
    for stage in schedule:
        kept = out / f"{stage.name}.pt"
        if kept.exists():
            model.load_state_dict(torch.load(kept, map_location=device))
            log.info("%s: found, resuming after it", stage.name)
        else:
            log.info("%s", stage)
            torch.manual_seed(seed + offset)
            run_stage(model, stage, offset, look_every, out)
            torch.save(model.state_dict(), kept)
        offset += stage.steps
    log.info("trained in %.1f minutes", (time.monotonic() - started) / 60)
    save(model, out / "weights")
    return model


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("toy-run"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--look-every", type=int, default=500, help="steps between quick looks")
    parser.add_argument("--scenes", type=int, default=500, help="held-out scenes to evaluate on")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        handlers=[logging.FileHandler(options.out / "train.log"), logging.StreamHandler()],
    )
    for chatty in ("httpx", "transformers"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    model = train(options.out, seed=options.seed, look_every=options.look_every)
    if options.scenes:
        figures = evaluate(model, build_tokenizer(), options.scenes)
        kept = options.out / "weights" / "metrics.json"
        kept.write_text(json.dumps(figures, indent=1) + "\n")
        log.info("%s", render(figures))


if __name__ == "__main__":
    main()
