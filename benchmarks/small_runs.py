"""Training runs of the small LMM, as their `train.log` tells them: for `small_card.py`."""

import re

_LOOK = re.compile(r"step (\d+)  (.*\d)  sinks ([\d. ]+)$")
_ALIGNED = re.compile(r"aligned: sinks ([\d. ]+)$")
_PACE = re.compile(r"step (\d+) .* ([\d.]+) CPU-h$")
LAYERS = (6, 15, 22)
EVERY = 200


def read(folder):
    """Steps and CPU-hours so far; by step the share of answers right and sinks a scene.

    Step 0 is the projector aligned and the LM frozen, which answers nothing. The share is the mean
    over kinds of question on the 12 scenes that the run looks at, so it is coarse.
    """
    found = {"steps": 0, "cpu_h": 0.0, "looks": {}}
    for line in (folder / "train.log").read_text().splitlines():
        if aligned := _ALIGNED.search(line):
            found["looks"]["0"] = {"answers": None, "sinks": _numbers(aligned[1])}
        elif look := _LOOK.search(line):
            shares = [float(one.split()[-1]) for one in look[2].split("  ")]
            found["looks"][look[1]] = {
                "answers": sum(shares) / len(shares),
                "sinks": _numbers(look[3]),
            }
        elif pace := _PACE.search(line):
            found |= {"steps": int(pace[1]), "cpu_h": float(pace[2])}
    return found


def _numbers(text):
    return [float(one) for one in text.split()]


def section(runs):
    """What each run had at every look, side by side."""
    steps = sorted({int(step) for run in runs.values() for step in run["looks"]})
    steps = [step for step in steps if step % EVERY == 0]
    head = ["step", *(f"{name}: sinks" for name in runs), *(f"{name}: answers" for name in runs)]
    lines = [head, ["--:"] * len(head)]
    for step in steps:
        looks = [run["looks"].get(str(step)) for run in runs.values()]
        lines.append([str(step), *map(_sinks, looks), *map(_answers, looks)])
    spent = ", ".join(
        f"{name}: {run['steps']:,} steps, {run['cpu_h']:.2f} CPU-hours"
        for name, run in runs.items()
    )
    return (
        "## Training runs\n\n"
        f"Sinks a scene entering layers {', '.join(map(str, LAYERS))} (24 scenes at step 0, 12 "
        "after it), and the share of answers that are right, the mean over kinds of question on "
        "the same 12 scenes: what the runs' logs say. Here a sink is a token with phi of at least "
        f"20; in the tables above, of at least the form's own tau. {spent}.\n\n"
        + "".join("| " + " | ".join(line) + " |\n" for line in lines)
        + "\n"
    )


def _sinks(look):
    return " / ".join(f"{value:.1f}" for value in look["sinks"]) if look else ""


def _answers(look):
    return f"{look['answers']:.2f}" if look and look["answers"] is not None else ""
