"""What interventions change on the toy benchmark: POPE accuracy and MME score, with intervals."""

import re
from pathlib import Path

from vsink_interp.plot.style import COLOURS, MUTED, new_figure, tidy

PAGE = Path(__file__).parents[1] / "evaluation.md"
CHANGE = re.compile(r"([+-][\d.]+) \[([+-][\d.]+), ([+-][\d.]+)\]")


def draw(_):
    """The table that `make compare` writes, drawn: differences from the unedited model."""
    table = PAGE.read_text().split("<!-- compare: begin -->")[1].split("<!-- compare: end -->")[0]
    lines = [line for line in table.splitlines() if len(CHANGE.findall(line)) >= 2]
    names = [line.split("|")[1].strip() for line in lines]
    figure = new_figure(9, 4.2)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, column, label in zip(panels, (0, 1), ("POPE accuracy", "MME score"), strict=True):
        for place, line in enumerate(lines):
            mean, low, high = map(float, CHANGE.findall(line)[column])
            ink = MUTED if low <= 0 <= high else COLOURS["generated" if mean > 0 else "sink"]
            axes.plot([low, high], [place, place], color=ink, lw=2)
            axes.plot(mean, place, "o", color=ink, ms=5)
        axes.axvline(0, color="black", lw=0.8)
        tidy(axes, f"change of the {label}", "")
    panels[0].set_yticks(range(len(names)), names, fontsize=8.5)
    panels[0].invert_yaxis()
    return figure
