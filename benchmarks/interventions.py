"""Training-free interventions on the toy benchmark; `make compare` writes docs/evaluation.md.

Every arm answers the same questions. Settings are those of the recipes, published for models of
7B and more; none was tuned on these questions, or on any.
"""

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path

from marked import write_table

import vsink_interp as vi
from vsink_interp.edits import recipes
from vsink_interp.evaluation import TaskAnswers, evaluate, toy_benchmark as toy
from vsink_interp.evaluation.results import OFF, Row
from vsink_interp.graph import Graphlike
from vsink_interp.toy.hard_scenes import hard_scene
from vsink_interp.toy.language import DESCRIBE

SHOWN = (("pope", "accuracy"), ("mme", "score"), ("chair", "CHAIR_i"), ("chair", "recall"))
KEEP = (0.2, 0.05)
HELD_OUT = range(1000, 1016)
"""Scenes that the benchmark does not have: on these SPIN's heads are chosen."""


def weak_heads(lmm: vi.LMM) -> vi.EditGraph:
    """SPIN with its heads chosen once: of each layer, the one that attends least to the image."""
    encoding = lmm.encode([hard_scene(seed).image for seed in HELD_OUT], [DESCRIBE] * 16)
    run = lmm.run(encoding, graph=vi.HEAD_PROBES)
    mass = vi.rank_heads(run).mass
    cuts = [
        vi.ScaleHeads(0.08, heads=(int(row.argmin()),), rows="query generated", layers=str(layer))
        for layer, row in enumerate(mass)
    ]
    return vi.EditGraph(*cuts)


def interventions(lmm: vi.LMM) -> dict[str, Graphlike]:
    """What is compared, by the name in the table."""
    middle = f"{lmm.n_layers // 2}:"
    return {
        "VAR, p .6, rho .5": vi.VAR(p=0.6, rho=0.5),
        "VAR, p .6, rho .8": vi.VAR(p=0.6, rho=0.8),
        "PAI, alpha .2": recipes.pai(layers="1:"),
        "PAI, alpha .5": recipes.pai(0.5, layers="1:"),
        "VCD": recipes.vcd(),
        "ClearSight, middle layers": recipes.clearsight(layers="1:4"),
        "AdaptVis, image x 1.2": recipes.adaptvis(1.2),
        "AdaptVis, image x .5": recipes.adaptvis(0.5),
        "SPIN, heads chosen once": weak_heads(lmm),
        "knockout image -> generated": vi.Knockout("image -> generated"),
        f"knockout image -> query, {middle}": vi.Knockout("image -> query", middle),
        "knockout image -> query generated": vi.Knockout("image -> query generated"),
        "visual sinks hidden": vi.HideKeys("sink & image"),
        "DropKeys image": vi.DropKeys("image"),
    }


def compressed(lmm: vi.LMM, answers: TaskAnswers) -> TaskAnswers:
    """The answers from compressed contexts, beside those that there are."""
    task, specs = answers.task, [vi.CompressedContext(keep=keep) for keep in KEEP]
    places: dict[str, list[int]] = {}
    for place, one in enumerate(task.questions):
        places.setdefault(one.about, []).append(place)
    texts: list[dict[int, str]] = [{} for _ in specs]
    for asked in places.values():
        image = task.questions[asked[0]].image
        prompts = [task.questions[place].prompt for place in asked]
        for found, context in zip(
            texts, lmm.compress(image, DESCRIBE, specs, max_new_tokens=64), strict=True
        ):
            run = context.ask(prompts, max_new_tokens=task.max_new_tokens)
            found.update(zip(asked, run.text, strict=True))
    new = {
        f"compressed context, keep {keep:g}": tuple(found[i] for i in range(len(found)))
        for keep, found in zip(KEEP, texts, strict=True)
    }
    return TaskAnswers(task, {**answers.answers, **new})


def holm(values: Mapping[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """p values adjusted for how many there are (Holm 1979)."""
    found, highest = {}, 0.0
    for rank, (key, p) in enumerate(sorted(values.items(), key=lambda pair: pair[1])):
        highest = max(highest, min(1.0, p * (len(values) - rank)))
        found[key] = highest
    return found


def cell(row: Row, adjusted: float | None) -> str:
    digits = 1 if row.metric == "score" else 3
    text = f"{row.difference:+.{digits}f} [{row.low:+.{digits}f}, {row.high:+.{digits}f}]"
    text = text.replace("0.", ".") if digits == 3 else text
    return f"**{text}**" if adjusted is not None and adjusted < 0.05 else text


def table(answers: Mapping[str, TaskAnswers]) -> str:
    rows = [row for one in answers.values() for row in one.rows()]
    whole = {
        (row.task, row.graph, row.metric): row for row in rows if row.split in ("all", "captions")
    }
    tests = {
        (task, graph): row.p
        for (task, graph, metric), row in whole.items()
        if (task, metric) in (("pope", "accuracy"), ("mme", "score"))
    }
    adjusted = holm(tests)
    first = next(iter(answers["pope"].answers.keys() - {OFF}))
    off = [whole[task, first, metric].off for task, metric in SHOWN]
    lines = [
        "| | POPE accuracy | became right, wrong | MME score | became right, wrong "
        "| CHAIR_i | recall |",
        "|---|---|---|---|---|---|---|",
        f"| **off** | {off[0]:.3f} | | {off[1]:.1f} | | {off[2]:.3f} | {off[3]:.3f} |",
    ]
    for graph in answers["pope"].answers:
        if graph == OFF:
            continue
        cells = []
        for task, metric in SHOWN:
            row = whole[task, graph, metric]
            cells.append(cell(row, adjusted.get((task, graph)) if task != "chair" else None))
            if task != "chair":
                cells.append(f"{row.won}, {row.lost} (p {tests[task, graph]:.2g})")
        lines.append(f"| {graph} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=toy.SCENES)
    parser.add_argument("--log", type=Path, help="goes on from it if it was stopped")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", action="store_true", help="into docs/evaluation.md")
    args = parser.parse_args()
    lmm, shown, start = vi.LMM.toy(), toy.scenes(args.scenes), time.process_time()
    tasks = [toy.pope(shown), toy.mme(shown), toy.chair(shown)]
    found = evaluate(lmm, tasks, interventions(lmm), log=args.log, batch_size=24, tick=print)
    answers = {name: compressed(lmm, one) for name, one in found.tasks.items()}
    minutes = (time.process_time() - start) / 60
    sizes = ", ".join(f"{len(task.questions)} of {task.name.upper()}" for task in tasks)
    text = (
        f"{args.scenes} scenes; questions: {sizes} (captions). "
        f"{minutes:.0f} minutes of one CPU core.\n\n" + table(answers)
    )
    print(text)
    if args.json:
        args.json.write_text(json.dumps(found.to_json()))
    if args.write:
        write_table("compare", text)


if __name__ == "__main__":
    main()
