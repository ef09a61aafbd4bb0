"""Evaluate the toy LMM on held-out scenes: `python -m vsink_interp.toy.evaluate --scenes 500`.

Plain transformers throughout, none of the library's engine (see `answers`), so its figures are
also an independent check of the library. `--json FILE` keeps them, `--card FILE` writes the tables
of a model card from the packaged `metrics.json`.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from . import weights_dir
from .answers import eager, image_from
from .card import refresh, render
from .measure import (
    Subject,
    accuracy_figures,
    caption_f1,
    caption_figures,
    captions,
    knockout_figures,
    sink_figures,
    subject,
)
from .scenes import scene


def evaluate(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    scenes: int,
    first_seed: int = 0,
) -> dict[str, object]:
    """Every figure of the model card, over `scenes` held-out scenes."""
    held_out = [scene(seed) for seed in range(first_seed, first_seed + scenes)]
    what = subject(eager(model), tokenizer, held_out)
    return {
        "scenes": scenes,
        "first_seed": first_seed,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "answers": accuracy_figures(what),
        "caption": caption_figures(what),
        "sinks": sink_figures(what),
        "knockout": knockout_figures(what),
    }


def quick_look(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, scenes: int = 40
) -> str:
    """A few lines on a model in training: accuracy, F1 when the image is cut off, sinks."""
    implementation, training = model.config._attn_implementation, model.training
    held_out = [scene(seed) for seed in range(500_000, 500_000 + scenes)]
    what = subject(eager(model), tokenizer, held_out)
    both = [_cut_f1(what, at, query=True, made=True) for at in range(what.layers)]
    flows = _cut_f1(what, 0, query=False, made=True), _cut_f1(what, 0, query=True, made=False)
    figures = {
        "F1": caption_figures(what)["object_f1"],
        "F1 cut from layer": both,
        "F1 image->generated, image->query cut": flows,
        "accuracy": accuracy_figures(what)["accuracy"],
        "sinks": sink_figures(what),
    }
    model.set_attn_implementation(implementation)
    model.train(training)
    return json.dumps(_rounded(figures))


def _cut_f1(what: Subject, at: int, *, query: bool, made: bool) -> float:
    told = captions(what, lambda _, given: image_from(at, given, query=query, generated=made))
    return caption_f1(what, told)


def _rounded(value: object) -> object:
    match value:
        case float():
            return round(value, 3)
        case dict():
            return {name: _rounded(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_rounded(inner) for inner in value]
        case _:
            return value


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=weights_dir)
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument(
        "--card", type=Path, nargs="*", help="only render the packaged figures, into these files"
    )
    options = parser.parse_args()
    if options.card is not None:
        figures = json.loads((weights_dir / "metrics.json").read_text())
        for path in options.card:
            refresh(path, figures)
        sys.stdout.write(render(figures))
        return
    model = LlavaForConditionalGeneration.from_pretrained(options.weights, dtype=torch.float32)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(options.weights)
    text = json.dumps(evaluate(model, tokenizer, options.scenes), indent=1) + "\n"
    if options.json:
        options.json.write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
