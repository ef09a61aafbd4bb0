"""The study of natural sinks: measure, and write `docs/natural-sinks.md`.

    python benchmarks/natural_sinks.py --form aligned
    python benchmarks/natural_sinks.py --form anchored --log FOLDER
    python benchmarks/natural_sinks.py --form seed-0 --adapter FILE --log FOLDER

adds what it measures to `benchmarks/natural_sinks.json`, one measure at a time, and writes the
page anew; stopped, the same command goes on. `--write` alone writes the page of earlier figures.
"""

import argparse
import json
from pathlib import Path

import torch
from natural_sinks_page import FIGURES, FORMS, SCENES, written

import vsink_interp as vi
from vsink_interp.plot import png
from vsink_interp.reproduction.measurements import CASE, LEFT_OUT
from vsink_interp.small.model import built
from vsink_interp.storage import write_bytes, write_text

PICTURES = FIGURES.parents[1] / "docs" / "assets" / "natural-sinks"
ENTRIES = {
    "A.fig3b": 24,
    "AB.v-sinks": 8,
    "B.fig7": 8,
    "A.fig3c": 8,
    "A.fig3a": 8,
    "A.fig4": 8,
    "B.fig2e": 8,
    "AB.top-k": 8,
}
"""Reproductions of both papers, and over how many scenes each is measured."""
DRAWN = ("A.fig3a", "B.fig7")
FEW = 12


def opened(form, adapter):
    """The model of a form: the toy, one that ships, or one of another adapter's file."""
    if form == "toy":
        return vi.LMM.toy()
    return vi.LMM.from_pretrained(built(form, source=adapter)) if adapter else vi.LMM.small(form)


def reproduced(lmm, form, log, limit):
    """Both papers' figures, one by one."""
    for name, count in ENTRIES.items():

        def measured(name=name, count=count):
            place = None if log is None else log / form
            found = vi.reproduce(name, lmm, limit=limit or count, log=place)
            outcome = vi.reproduction.find(name).outcome(found)
            if form == "anchored" and name in DRAWN:
                PICTURES.mkdir(parents=True, exist_ok=True)
                write_bytes(PICTURES / f"{name}.png", png(found.plot()))
            by = [n for n in found.factors if len(found.labels(n)) <= FEW and n != "draw"]
            by = [n for n in by if n not in ("phi", "token")] or list(found.factors[:1])
            rows = [[one.group, one.mean, one.low, one.high] for one in found.summary(by)]
            return {
                "holds": outcome.holds, "because": outcome.because,
                "cases": len(found.labels(CASE)) or limit or count,
                "left out": found.about.get(LEFT_OUT, ""), "rows": rows,
            }  # fmt: skip

        yield name, measured


def measures(lmm, form, scenes, log, limit):
    """Everything that is measured on a form, by name."""
    if form != "toy":
        from natural_sinks_measures import steps
        from small_figures import Held

        held = Held.of(lmm, scenes)
        shown, asked = steps(held)
        yield from shown.items()
        if form.endswith("aligned"):
            return
        yield from asked.items()
    yield from reproduced(lmm, form, log, limit)


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--form", choices=FORMS, help="measure this form, and write")
    parser.add_argument("--adapter", type=Path, help="another adapter's file")
    parser.add_argument(
        "--scenes", type=int, default=SCENES, help="scenes in which sinks are counted"
    )
    parser.add_argument("--limit", type=int, help="cases of every reproduction, instead of its own")
    parser.add_argument("--log", type=Path, help="keep the rows of reproductions here, and go on")
    parser.add_argument("--anew", nargs="*", default=[], help="measures to be taken again")
    parser.add_argument("--only", nargs="*", help="these measures alone")
    parser.add_argument("--json", type=Path, default=FIGURES, help="keep the figures here")
    parser.add_argument("--write", action="store_true", help="write the page of earlier figures")
    asked = parser.parse_args()
    if not (asked.form or asked.write):
        parser.error("what to do? --form FORM or --write")
    if (asked.form or "").startswith("seed-0") and not asked.adapter:
        parser.error(f"{asked.form} does not ship: --adapter benchmarks/{asked.form}.safetensors")
    if asked.form in (None, "toy") and asked.adapter:
        parser.error("--adapter wants --form of the small LMM")
    torch.set_num_threads(1)
    if asked.form:
        known = json.loads(asked.json.read_text()) if asked.json.exists() else {}
        found = known.setdefault(asked.form, {})
        lmm = opened(asked.form, asked.adapter)
        found["sinks"] = {"report": str(lmm.sink_report), "tau": lmm.sinks.tau}
        for name, measure in measures(lmm, asked.form, asked.scenes, asked.log, asked.limit):
            if (name in found and name not in asked.anew) or (
                asked.only and name not in asked.only
            ):
                continue
            found[name] = measure()
            write_text(asked.json, json.dumps(known, indent=1) + "\n")
            print(name, flush=True)
    written(asked.json)


if __name__ == "__main__":
    main()
