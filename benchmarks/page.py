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
    "probe-all-rows": "`SegmentMass(rows='all')`, every layer and head",
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
GROWTH = {
    "probe-growth": "`SegmentMass()`",
    "knockout-growth": "`Knockout('image -> query')`",
    "var-growth": "`VAR()`",
}
TARGETS = {
    "var-prefill": 1.06,
    "var-decode": 1.05,
    "knockout-prefill": 1.03,
    "probe-text-rows": 1.05,
    "probe-all-rows": 1.20,
    "probe-decode": 1.05,
}
DROPPED = {
    "": {"600": 0.80, "1200": 0.65, "3000": 0.40},
    "/gqa": {"600": 0.88, "1200": 0.80, "3000": 0.72},
}
"""With fewer key heads there is less to save."""
ANSWERS = {"toy": 1.25, "small": 1.05}
HEAD = """# What it costs

<!-- Written by `make bench` from its own figures; run that instead of editing. -->

Time as a ratio to plain SDPA in the same run: 1.00 is the model alone. Given are the median of
CPU-time ratios over interleaved rounds on one thread and, in parentheses, the smallest and largest.
*A/A* is plain SDPA against itself: differences within its spread are noise. Decoders have width
1,024, 16 heads and random weights (8 layers at 600 tokens, 4 at more), in fp32; one token in forty
is a planted sink. `make bench` measures again. These numbers were measured on an idle machine of
two cores, one model and prompt after another. *Target* was set before measuring and is not met
everywhere.

![Ratios to plain SDPA](assets/benchmarks.png)
"""
TITLES = {
    "": "Sixteen key heads (MHA)",
    "/gqa": "Four key heads for sixteen query heads (GQA)",
}
WHOLE = """
## Whole answers of the toy and of the small LMM

Generating 17 tokens with the toy (1 M parameters) and 24 with the small LMM (157 M) from an encoded
image and prompt. A forward pass of the toy takes a few milliseconds, so it shows the cost of
planning and of Python rather than of attention.
"""

FIXED = (
    "a fixed time a layer and step, of Python and of operations on small tensors, weighs less the "
    "longer the prompt and the wider the model"
)
REASONS = {
    "var-decode": FIXED,
    "probe-decode": "a probe leaves the model's own attention and its logits as they are to the "
    "last bit, so it reads the keys a second time; in short prompts a fixed time counts more",
    "probe-all-rows": "a probe leaves the model's own attention as it is, so every pattern is "
    "computed a second time",
    "dropped-decode": "a step still reads all weights, whatever the cache holds",
    "knockout-answer": FIXED,
    "var-answer": FIXED,
    "probe-answer": FIXED,
    "three-answer": FIXED,
}
"""Why a target is missed."""
MISSED = """
## Targets that are missed

Named are the prompts, or models, and their ratios.

"""
GROWN = """
## Growth over prompts and batches

A prefill of two narrow layers (width 128) with 1, 5 or 21 images of 576 tokens a prompt; costs
beside attention weigh more than in a real model. A graph whose ratio does not rise with prompt or
batch grows as plain attention does. Memory: at most {memory:.2f} of the plain model's peak.
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
    models = [name for name in ANSWERS if any(key.endswith(f"@{name}") for key in figures)]
    parts.append(f"{WHOLE}\n{table(figures, models, '', 'answer')}")
    if any(name.endswith("/growth") for name in figures):
        parts.append(grown(figures))
    return "".join([*parts, missed(figures)])


def missed(figures: Figures) -> str:
    """Every target that is missed, and why."""
    found: dict[str, list[str]] = {}
    for key, one in figures.items():
        name, mark = key.split("@")
        target = _allowed(name, mark)
        if target is not None and round(one["ratio"], 2) > target:
            found.setdefault(name, []).append(f"{mark}: {one['ratio']:.2f} for {target:.2f}")
    reasons: dict[str, list[str]] = {}
    for name, cells in found.items():
        line = f"    - {WHAT[name]} ({_phase(name)}): {', '.join(cells)}\n"
        reasons.setdefault(_sentence(name), []).append(line)
    return MISSED + "".join(f"- {why}.\n{''.join(lines)}" for why, lines in reasons.items())


def _sentence(name: str) -> str:
    reason = REASONS.get(name, "why is not known")
    return reason[0].upper() + reason[1:]


def _allowed(name: str, mark: str) -> float | None:
    """The target of one figure."""
    size, _, rest = mark.partition("/")
    if name == "dropped-decode":
        return DROPPED[f"/{rest}" if rest else ""].get(size)
    if _phase(name) == "answer":
        return ANSWERS[mark]
    return TARGETS.get(name)


def grown(figures: Figures) -> str:
    """The section about prompts and batches: a row per setting."""
    found = {name: one for name, one in figures.items() if name.endswith("/growth")}
    memory = max(one["peak_ratio"] for one in found.values())
    lines = [
        f"| tokens | batch | plain, a prompt | a second | {' | '.join(GROWTH.values())} | *A/A* |",
        f"|{'--:|' * (5 + len(GROWTH))}",
    ]
    for mark in dict.fromkeys(name.split("@")[1] for name in found):
        tokens, batch = map(int, mark.removesuffix("/growth").split("x"))
        ours = [found[f"{name}@{mark}"] for name in GROWTH]
        second = batch / ours[0]["base_seconds"]
        cells = [f"**{one['ratio']:.2f}** ({_spread(one)})" for one in ours]
        again = f"{ours[0]['aa']:.2f} ({_spread(ours[0], 'aa_')})"
        start = f"| {tokens:,} | {batch} | {1000 / second:,.0f} ms | {second:.2f} | "
        lines.append(f"{start}{' | '.join(cells)} | {again} |")
    return GROWN.format(memory=memory) + "\n" + "\n".join(lines) + "\n"


def _spread(figure: dict[str, float], of: str = "") -> str:
    return f"{figure[f'{of}least']:.2f}-{figure[f'{of}largest']:.2f}"


def table(figures: Figures, sizes: list[str], mark: str, phase: str) -> str:
    """One table: a row per feature, a column per size."""
    heads = [f"{n} tokens" if n.isdigit() else f"{n} LMM" for n in sizes]
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
    return f"**{figure['ratio']:.2f}** ({_spread(figure)}) | {figure['peak_ratio']:.2f}"


def _aa(figures: Figures, mark: str, phase: str) -> str:
    found = next(
        f for n, f in figures.items() if n.endswith(f"@{mark}") and _phase(n.split("@")[0]) == phase
    )
    return f"{found['aa']:.2f} ({_spread(found, 'aa_')})"


def _target(name: str, sizes: list[str], mark: str) -> str:
    if name == "dropped-decode":
        return "at most " + " / ".join(f"{DROPPED[mark][n]:.2f}" for n in sizes)
    if _phase(name) == "answer":
        return "at most " + " / ".join(f"{ANSWERS[n]:.2f}" for n in sizes)
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
