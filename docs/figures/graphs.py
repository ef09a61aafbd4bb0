"""A graph of edits and probes, planned: where each node acts in the forward pass."""

import vsink_interp as vi
from vsink_interp.plot.style import COLOURS, new_figure

GRAPH = (
    vi.Knockout("image -> query", "2:5")
    | vi.probes.SinkValue("image")
    | vi.VAR(p=0.6, rho=0.5)
    | vi.probes.SegmentMass(layers="3:")
    | vi.ScaleHeads(0.0, layers=5, heads=[1, 2])
)
ROWS = ("hook_resid_pre", "attn.hook_attn_scores", "attn.hook_pattern", "attn.hook_z",
        "hook_attn_out", "hook_mlp_out", "hook_resid_post")  # fmt: skip
INKS = (COLOURS["query"], COLOURS["bos"], COLOURS["sink"], COLOURS["image"], COLOURS["generated"])


def draw(lmm):
    """Layers from left to right, the hook points of a layer from below; edits filled."""
    plan = lmm.plan(GRAPH)
    figure = new_figure(9, 3.6)
    axes = figure.add_subplot()
    for layer in range(lmm.n_layers):
        axes.axvspan(layer - 0.46, layer + 0.46, color="#f1f3f4")
    told = set()
    for (template, layer), nodes in plan.places.items():
        row = next(i for i, name in enumerate(ROWS) if template.endswith(name))
        for place, (number, node) in enumerate(nodes):
            edit = isinstance(node, vi.Edit)
            x = layer + (place - (len(nodes) - 1) / 2) * 0.3
            axes.scatter(
                x, row, s=110, marker="s" if edit else "o", color=INKS[number],
                facecolor=INKS[number] if edit else "white", linewidth=2, zorder=3,
                label=None if number in told else f"{type(node).__name__} ({_kind(edit)})",
            )  # fmt: skip
            told.add(number)
    axes.set_yticks(range(len(ROWS)), ROWS, family="monospace", fontsize=9)
    axes.set_xticks(range(lmm.n_layers), [f"layer {i}" for i in range(lmm.n_layers)], fontsize=9)
    axes.set(ylim=(-0.6, len(ROWS) - 0.4), xlim=(-0.6, lmm.n_layers - 0.4))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure


def _kind(edit):
    return "edit" if edit else "probe"
