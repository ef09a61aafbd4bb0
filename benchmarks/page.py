"""The figures as text, as a page of the docs and as a plot."""

from pathlib import Path

from measure import Figures

from vsink_interp.plot.style import MUTED, new_figure, png, tidy

DOCS = Path(__file__).parents[1] / "docs"
WHAT = {
    "empty-plan": "engine active, no edits, no probes",
    "knockout-prefill": "`Knockout('image -> query generated')`, every layer",
    "var-prefill": "`VAR()`, every layer",
    "probe-text-rows": "`SegmentMass()`, text rows, every layer",
    "probe-all-rows": "`SegmentMass(rows='all')`, every layer",
    "eager": "eager attention, no edits, no probes",
    "eager-var": "VAR on the whole pattern, vectorised, eager",
    "released-var": "VAR head by head, as released, eager",
    "empty-decode": "engine active, no edits, no probes",
    "knockout-decode": "`Knockout('image -> query generated')`, every layer",
    "var-decode": "`VAR()`, every layer",
    "probe-decode": "`SegmentMass()`, every layer",
    "dropped-decode": "`DropKeys('image')` after the prefill",
    "eager-decode": "eager attention, no edits, no probes",
    "eager-var-decode": "VAR on the whole pattern, vectorised, eager",
    "released-var-decode": "VAR head by head, as released, eager",
    "empty-answer": "no edits, no probes",
    "knockout-answer": "`Knockout('image -> query generated')`",
    "var-answer": "`VAR()`",
    "probe-answer": "`SegmentMass()`",
    "three-answer": "knockout from layer 4, VAR and masses at once",
}
TARGETS = {
    "var-prefill": 1.06,
    "var-decode": 1.05,
    "knockout-prefill": 1.03,
    "probe-text-rows": 1.05,
    "probe-all-rows": 1.30,
    "probe-decode": 1.05,
    "knockout-answer": 1.25,
    "var-answer": 1.25,
    "probe-answer": 1.25,
    "three-answer": 1.25,
}
DROPPED = {
    "": {"600": 0.80, "1200": 0.65, "3000": 0.40},
    "/gqa": {"600": 0.88, "1200": 0.80, "3000": 0.72},
}
"""With fewer key heads there is less to save."""
HEAD = """# What it costs

<!-- Written by `make bench` from its own figures; run that instead of editing. -->

Time as a ratio to plain SDPA in the same run: 1.00 is the model alone. Given are the median of
CPU-time ratios over interleaved rounds on one thread and, in parentheses, the smallest and largest.
*A/A* is plain SDPA against itself: differences within its spread are noise. Decoders have width
1,024, 16 heads and random weights (8 layers at 600 tokens, 4 at more), in fp32; one token in forty
is a planted sink. `make bench` measures again. These numbers were measured on two cores shared with
other work, which widens the spreads. *Target* was set before measuring and is not met everywhere.

![Ratios to plain SDPA](assets/benchmarks.png)
"""
TITLES = {
    "": "Sixteen key heads (MHA)",
    "/gqa": "Four key heads for sixteen query heads (GQA)",
}
TOY = """
## Whole answers of the toy LMM

Generating 17 tokens from an encoded image and prompt. A forward pass of the toy takes a few
milliseconds, so this shows the cost of planning and of Python rather than of attention.
"""


def report(figures: Figures) -> str:
    """The figures as lines of text."""
    return "".join(
        f"{name:28} {f['ratio']:5.2f} [{f['least']:.2f}-{f['largest']:.2f}]"
        f"  aa {f['aa']:.2f}  peak {f['peak_ratio']:.2f}{_waits(f)}\n"
        for name, f in figures.items()
    )


def _waits(figure: dict[str, float]) -> str:
    return f"  waits {figure['waits']:.0f}" if "waits" in figure else ""


def write(figures: Figures) -> None:
    """Put the page and its plot into the docs."""
    (DOCS / "benchmarks.md").write_text(page(figures))
    (DOCS / "assets" / "benchmarks.png").write_bytes(png(plot(figures)))


def page(figures: Figures) -> str:
    """The page of the docs."""
    parts = [HEAD]
    for mark, title in TITLES.items():
        sizes = [n for n in DROPPED[mark] if any(key.endswith(f"@{n}{mark}") for key in figures)]
        for phase in ("prefill", "decode") if sizes else ():
            parts.append(f"\n## {title}: {phase}\n\n{table(figures, sizes, mark, phase)}")
    parts.append(f"{TOY}\n{table(figures, ['toy'], '', 'answer')}")
    return "".join(parts)


def table(figures: Figures, sizes: list[str], mark: str, phase: str) -> str:
    """One table: a row per feature, a column per size."""
    heads = [f"{n} tokens" if n.isdigit() else "answer" for n in sizes]
    columns = [cell for head in heads for cell in (head, "peak memory")]
    lines = [
        f"| | {' | '.join(columns)} | target |",
        f"|---|{'---|' * (len(columns) + 1)}",
        f"| *A/A* | {' | '.join(f'{_aa(figures, n + mark, phase)} |' for n in sizes)} | |",
    ]
    for name, what in WHAT.items():
        found = [figures.get(f"{name}@{n}{mark}") for n in sizes]
        if any(found) and _phase(name) == phase:
            cells = [_cell(figure) for figure in found]
            lines.append(f"| {what} | {' | '.join(cells)} | {_target(name, sizes, mark)} |")
    return "\n".join(lines) + "\n"


def _phase(name: str) -> str:
    return next((end for end in ("decode", "answer") if name.endswith(end)), "prefill")


def _cell(figure: dict[str, float] | None) -> str:
    if figure is None:
        return "| "
    spread = f"{figure['least']:.2f}-{figure['largest']:.2f}"
    return f"**{figure['ratio']:.2f}** ({spread}) | {figure['peak_ratio']:.2f}"


def _aa(figures: Figures, mark: str, phase: str) -> str:
    found = next(
        f for n, f in figures.items() if n.endswith(f"@{mark}") and _phase(n.split("@")[0]) == phase
    )
    return f"{found['aa']:.2f} ({found['aa_least']:.2f}-{found['aa_largest']:.2f})"


def _target(name: str, sizes: list[str], mark: str) -> str:
    if name == "dropped-decode":
        return "at most " + " / ".join(f"{DROPPED[mark][n]:.2f}" for n in sizes)
    return f"at most {TARGETS[name]:.2f}" if name in TARGETS else ""


def plot(figures: Figures):
    """One row per feature, one dot per prompt length, prefill beside decode."""
    figure = new_figure(9.2, 3.9)
    shades = {"600": "#9ecae1", "1200": "#4292c6", "3000": "#08306b"}
    for axes, phase in zip(figure.subplots(1, 2), ("prefill", "decode"), strict=True):
        names = [
            n for n in WHAT if _phase(n) == phase and any(f.startswith(f"{n}@") for f in figures)
        ]
        for size, shade in shades.items():
            for row, name in enumerate(names):
                if found := figures.get(f"{name}@{size}"):
                    at = row + 0.22 * (list(shades).index(size) - 1)
                    axes.plot([found["least"], found["largest"]], [at, at], color=shade, lw=1)
                    axes.plot(found["ratio"], at, "o", color=shade, ms=5)
        axes.axvline(1, color=MUTED, lw=1, zorder=0)
        axes.set_xscale("log")
        ticks = [0.4, 0.6, 0.8, 1, 1.5, 2, 3, 4]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
        axes.set_xticks([], minor=True)
        axes.set_yticks(range(len(names)), [name.removesuffix(f"-{phase}") for name in names])
        axes.invert_yaxis()
        tidy(axes, "time, as a ratio to plain SDPA", "", phase)
    for size, shade in shades.items():
        axes.plot([], [], "o", color=shade, label=f"{int(size):,} tokens")
    axes.legend(frameon=False, fontsize=8.5)
    return figure
