"""Measure a form of the small LMM, and write the tables of its card.

    python benchmarks/small_card.py --form aligned --scenes 100

adds the figures of that form to `benchmarks/small_figures.json` and writes
`docs/small-model-card.md` anew. `--write` alone writes the card of what was measured before.

    python benchmarks/small_card.py --run FOLDER --name control
    python -m vsink_interp.small.export FOLDER control --out control.safetensors
    python benchmarks/small_card.py --form control --adapter control.safetensors

do the same for a training run: its log, and what it made.
"""

import argparse
import json
from itertools import pairwise
from pathlib import Path

import small_runs
import torch
from told import filled

import vsink_interp as vi
from vsink_interp.small.model import adapters

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "benchmarks" / "small_figures.json"
CARD = ROOT / "docs" / "small-model-card.md"
TEXT = ROOT / "benchmarks" / "small_card.md"
TRAINED = ("anchored", "control")
PROJECTED = 32
"""The scenes on which sinks are counted by projection."""


def measure(lmm, form, scenes, found, keep):
    """Every figure of a form, kept one by one; what asks it to answer, of trained forms."""
    from photographs import described
    from small_figures import (
        Held,
        answers,
        captions,
        nearest_words,
        perplexity,
        phi,
        sinks,
    )

    held, blind = Held.of(lmm, scenes), vi.Knockout("image -> generated")
    values = phi(held)
    steps = {
        "scenes": lambda: scenes,
        "report": lambda: str(lmm.sink_report),
        "sinks": lambda: sinks(held, values),
        "nearest word": lambda: nearest_words(held),
        "perplexity": lambda: perplexity(held),
    }
    if form in TRAINED:
        half, third, plain = scenes // 2, scenes // 3, Held.of(lmm, scenes // 2, plain=True)
        steps |= {
            "answers": lambda: answers(held),
            "captions": lambda: captions(held.part(half)),
            "answers, plain scenes": lambda: answers(plain),
            "captions, plain scenes": lambda: captions(plain.part(third)),
            "captions, query-only": lambda: captions(held.part(third), blind),
            "photographs": lambda: described(lmm),
        }
    for name, figure in steps.items():
        if name in found:
            continue
        found[name] = figure()
        keep(found)
        print(name, found[name], flush=True)


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
    title = f'`small("{form}")`' if form in adapters() else f"{form} (does not ship)"
    made = [f"## {title}: figures on {found['scenes']} held-out scenes\n\n"]
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
        f"Perplexity of four paragraphs of English: {ours:.2f}; "
        f"SmolLM2 as it comes {frozen:.2f}.\n\n"
    )
    if "answers" in found:
        made.append(answered(found))
    return "".join([*made, photographed(found)])


def answered(found):
    """The table of answers of a form that answers."""
    plain = found.get("answers, plain scenes", {})
    rows = [
        (kind, number(share), cell(plain.get(kind))) for kind, share in found["answers"].items()
    ]
    captions = [cell(found.get(name)) for name in ("captions", "captions, plain scenes")]
    rows.append(("caption, object F1", *captions))
    if (blind := found.get("captions, query-only")) is not None:
        rows.append(("caption, image hidden from generated rows (query-only)", number(blind), ""))
    note = "Captions: a half of the scenes, a third on plain scenes and query-only.\n\n"
    return table(("answers", "on photographs", "plain scenes"), rows) + note


def photographed(found):
    """The table of photographs."""
    rows = []
    for name, one in found.get("photographs", {}).items():
        sunk = [f"{one['sinks in a box'][at]} of {count}" for at, count in one["sinks"].items()]
        seen = "yes" if one["seen behind scenes"] else "no"
        shown = one["answer"].replace("\n", " ").replace("|", " ")
        rows.append((name, ", ".join(one["boxes"]), seen, f"{one['in a box']:.2f}", *sunk, shown))
    if not rows:
        return ""
    head = (
        "photograph", "boxes", "seen in training", "patches in a box",
        "sinks in a box, layer 6", "layer 15", "answer to \"Describe the image.\"",
    )  # fmt: skip
    said = "Real photographs, boxes drawn by hand (`benchmarks/photographs.py`); *seen*: crops of "
    return said + "it stood behind training scenes:\n\n" + table(head, rows)


def cell(value):
    """A number, or nothing where it was not measured."""
    return "" if value is None else number(value)


def card(figures):
    """The card: its text, then the tables of every form measured."""
    parts = [section(form, found) for form, found in figures.items() if "sinks" in found]
    if runs := figures.get("runs"):
        parts.append(small_runs.section(runs))
    seeds = figures.get("projections")
    if seeds:
        rows = [(seed, *(number(value, 1) for value in found)) for seed, found in seeds.items()]
        head = ("projection", "layer 6", "layer 15", "layer 22")
        parts.append(
            "## How counts vary with the projection\n\n"
            f"Sinks a scene, LM frozen, {PROJECTED} scenes, background patches exactly at their "
            "anchors:\n\n" + table(head, rows)
        )
    return filled(TEXT.read_text(), figures, {}).rstrip() + "\n\n" + "".join(parts).rstrip() + "\n"


def check(parser, asked):
    """Refuse options that would do nothing."""
    if not (asked.form or asked.projections or asked.run or asked.write):
        parser.error("what to do? --form FORM, --projections FOLDER, --run FOLDER or --write")
    if not asked.form and (asked.adapter or asked.resume):
        parser.error("--adapter and --resume want --form FORM")
    if asked.name and not (asked.form or asked.run):
        parser.error("--name wants --form FORM or --run FOLDER")
    if asked.run and not asked.name:
        parser.error("--run FOLDER wants --name NAME")


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--form", help="measure this form, and write")
    parser.add_argument("--adapter", type=Path, help="another adapter's file, such as a control's")
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--projections", type=Path, help="count sinks by projection, of this run")
    parser.add_argument("--run", type=Path, help="read the log of this training run")
    parser.add_argument("--name", help="what to call it in the card; the form by default")
    parser.add_argument("--resume", action="store_true", help="measure what is not kept yet")
    parser.add_argument("--write", action="store_true", help="write the card of earlier figures")
    asked = parser.parse_args()
    check(parser, asked)
    torch.set_num_threads(1)
    known = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    if asked.projections:
        from small_figures import Held, projections

        held = Held.of(vi.LMM.small("aligned"), PROJECTED)
        known["projections"] = projections(held, asked.projections)
    if asked.run:
        known.setdefault("runs", {})[asked.name] = small_runs.read(asked.run)
    name = asked.name or asked.form
    if asked.form:
        if asked.adapter:
            from vsink_interp.small.model import built

            lmm = vi.LMM.from_pretrained(built(asked.form, source=asked.adapter))
        else:
            lmm = vi.LMM.small(asked.form)

        def keep(found):
            FIGURES.write_text(json.dumps({**known, name: found}, indent=1) + "\n")

        before = known.get(name, {}) if asked.resume else {}
        if before.get("scenes", asked.scenes) != asked.scenes:
            parser.error(f"what is kept of {name} is of --scenes {before['scenes']}")
        measure(lmm, asked.form, asked.scenes, before, keep)
        known = json.loads(FIGURES.read_text())
    FIGURES.write_text(json.dumps(known, indent=1) + "\n")
    CARD.write_text(card(json.loads(FIGURES.read_text())))


if __name__ == "__main__":
    main()
