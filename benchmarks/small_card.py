"""Measure a form of the small LMM, and write the tables of its card.

    python benchmarks/small_card.py --form aligned --scenes 100

adds the figures of that form to `benchmarks/small_figures.json` and writes
`docs/small-model-card.md` anew. `--write` alone writes the card of what was measured before.
"""

import argparse
import json
import time
from itertools import pairwise
from pathlib import Path

import torch

import vsink_interp as vi

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "benchmarks" / "small_figures.json"
CARD = ROOT / "docs" / "small-model-card.md"
TEXT = ROOT / "benchmarks" / "small_card.md"
TRAINED = ("anchored", "control")


def measure(lmm, form, scenes):
    """Every figure of one form; what asks the model to answer, of trained forms alone."""
    from small_figures import (
        Held,
        answers,
        captions,
        hiding,
        knockouts,
        nearest_words,
        perplexity,
        phi,
        sinks,
    )  # fmt: skip

    began = time.process_time()
    held = Held.of(lmm, scenes)
    values = phi(held)
    report = lmm.sink_report
    found = {
        "scenes": scenes,
        "report": str(report),
        "nearest word": nearest_words(held),
        "sinks": sinks(held, values),
        "perplexity": perplexity(held),
    }
    if form in TRAINED:
        plain, some = Held.of(lmm, scenes // 2, plain=True), scenes // 6
        blind = vi.Knockout("image -> generated")
        found |= {
            "answers": answers(held),
            "answers, plain scenes": answers(plain),
            "captions": captions(held.part(scenes // 2)),
            "captions, plain scenes": captions(plain.part(scenes // 4)),
            "captions, image hidden from generated rows": captions(held.part(scenes // 4), blind),
            "hiding": hiding(held.part(2 * scenes // 3), values[:, : 2 * scenes // 3]),
            "knockouts": knockouts(held.part(some)),
        }
    return found | {"CPU minutes": round((time.process_time() - began) / 60, 1)}


def table(head, rows):
    """A table in Markdown."""
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines) + "\n"


def number(value, digits=3):
    """A number, or its mean and interval."""
    if isinstance(value, list):
        return f"{value[0]:+.3f} [{value[1]:+.3f}, {value[2]:+.3f}]"
    return f"{value:.{digits}f}"


def section(form, found):
    """The tables of one form."""
    sunk = found["sinks"]
    layers = [0, 1, 2, 3, 6, 9, 10, 11, 12, 15, 18, 22, 25, 28, 29]
    made = [f'## `small("{form}")`: figures on {found["scenes"]} held-out scenes\n\n']
    made.append(f"`lmm.sink_report`: {found['report']}.\n\n")
    made.append(f"Sinks: dimensions {sunk['dims']}, tau {sunk['tau']}; ")
    made.append(f"{sunk['background']:.3f} of the patches are background.\n\n")
    names = ("a scene", "scenes with one", "on background", "first token")
    head = (
        "entering layer",
        "sinks a scene",
        "scenes with one",
        "on background",
        "phi of the first token",
    )
    made.append(
        table(head, [(at, *(number(sunk[name][at], 2) for name in names)) for at in layers])
    )
    counts, edges = sunk["histogram at layer 22"]
    bins = [f"{low:.0f}-{high:.0f}" for low, high in pairwise(edges)]
    made.append("Image tokens by phi entering layer 22:\n\n" + table(bins, [counts]))
    near = found["nearest word"]
    made.append(
        "The nearest word of its kind to the projector's output at an object's patch is right:\n\n"
    )
    made.append(table(list(near), [[number(value) for value in near.values()]]))
    ours, frozen = found["perplexity"]
    made.append(
        f"Perplexity of a paragraph of English: {ours:.2f}; SmolLM2 as it comes {frozen:.2f}.\n\n"
    )
    if "answers" in found:
        made.append(answered(found))
    return "".join(made)


def answered(found):
    """The tables of a form that answers."""
    photo, plain = found["answers"], found["answers, plain scenes"]
    rows = [(kind, number(photo[kind]), number(plain[kind])) for kind in photo]
    rows.append(
        ("caption, object F1", number(found["captions"]), number(found["captions, plain scenes"]))
    )
    made = [table(("answers", "on photographs", "plain scenes"), rows)]
    made.append(
        "Captions with the image hidden from generated rows (query-only): F1 "
        f"{found['captions, image hidden from generated rows']:.3f}.\n\n"
    )
    hidden = found["hiding"]
    rows = [
        (name, *(number(cell.get(key, "")) if key in cell else "" for key in HIDING))
        for name, cell in hidden.items()
        if isinstance(cell, dict)
    ]
    head = (
        "hidden from all text rows",
        "caption words",
        "nll",
        "accuracy less sinks'",
        "nll less sinks'",
    )
    made.append(
        f"Fig. 3b of Kang et al. ({hidden['hidden a scene']:.1f} image tokens a scene):\n\n"
    )
    made.append(table(head, rows))
    stages = found["knockouts"]
    kinds = list(next(iter(stages.values())))
    rows = [(at, *(number(cell[kind], 2) for kind in kinds)) for at, cell in stages.items()]
    made.append("The image cut off from text rows from a layer on; words right:\n\n")
    made.append(table(("from layer", *kinds), rows))
    return "".join(made)


HIDING = ("accuracy", "nll", "accuracy less sinks", "nll less sinks")


def card(figures):
    """The card: its text, then the tables of every form measured."""
    parts = [section(form, found) for form, found in figures.items() if "sinks" in found]
    seeds = figures.get("projections")
    if seeds:
        rows = [(seed, *(number(value, 1) for value in found)) for seed, found in seeds.items()]
        head = ("projection", "layer 6", "layer 15", "layer 22")
        parts.append(
            "## How counts vary with the projection\n\nSinks a scene, LM frozen, 32 scenes, "
            "background patches exactly at their anchors:\n\n" + table(head, rows)
        )
    return TEXT.read_text().rstrip() + "\n\n" + "".join(parts).rstrip() + "\n"


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--form", help="measure this form, and write")
    parser.add_argument("--adapter", type=Path, help="another adapter's file, such as a control's")
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--projections", type=Path, help="count sinks by projection, of this run")
    parser.add_argument("--write", action="store_true", help="write the card of earlier figures")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    known = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    if asked.projections:
        from small_figures import Held, projections

        held = Held.of(vi.LMM.small("aligned"), min(asked.scenes, 32))
        known["projections"] = projections(held, asked.projections)
    if asked.form:
        if asked.adapter:
            from vsink_interp.small.model import built

            lmm = vi.LMM.from_pretrained(built(asked.form, source=asked.adapter))
        else:
            lmm = vi.LMM.small(asked.form)
        known[asked.form] = measure(lmm, asked.form, asked.scenes)
    FIGURES.write_text(json.dumps(known, indent=1) + "\n")
    CARD.write_text(card(json.loads(FIGURES.read_text())))


if __name__ == "__main__":
    main()
