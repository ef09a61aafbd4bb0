"""One decoder layer and the names of its hook points, in forward order."""

from vsink_interp.plot.style import COLOURS, new_figure

STREAM, ATTENTION, MLP = "#455a64", COLOURS["image"], COLOURS["generated"]


def draw(lmm):
    """The residual stream upwards, attention and MLP beside it."""
    figure = new_figure(9, 4.9)
    axes = figure.add_subplot()
    axes.set(xlim=(0, 10), ylim=(0, 10))
    axes.axis("off")
    axes.annotate(
        "", (1.7, 9.9), (1.7, 0.1), arrowprops={"arrowstyle": "-|>", "lw": 3, "color": STREAM}
    )
    for y, name in ((0.8, "hook_resid_pre"), (5.35, "hook_resid_mid"), (9.1, "hook_resid_post")):
        _name(axes, 1.7, y, name, STREAM)
    _branch(axes, 0.8, 4.75, ATTENTION)
    _branch(axes, 5.35, 8.5, MLP)
    axes.plot([5, 6.7, 6.7, 5], [0.8, 0.8, 3.95, 3.95], color=ATTENTION, lw=1.2, zorder=0)
    axes.plot([3.3, 3.3, 5], [0.8, 2.4, 2.4], color=ATTENTION, lw=1.2, zorder=0)
    for x, name in ((3.3, "attn.hook_q"), (5, "attn.hook_k"), (6.7, "attn.hook_v")):
        _name(axes, x, 0.8, name, ATTENTION)
    for x, name in ((3.3, "attn.hook_rot_q"), (5, "attn.hook_rot_k")):
        _name(axes, x, 1.6, name, ATTENTION)
    for y, name in ((2.4, "attn.hook_attn_scores"), (3.15, "attn.hook_pattern")):
        _name(axes, 5, y, name, ATTENTION, computed=True)
    _name(axes, 5, 3.95, "attn.hook_z", ATTENTION)
    _name(axes, 7.4, 4.75, "attn.hook_result", ATTENTION)
    _name(axes, 5, 4.75, "hook_attn_out", ATTENTION)
    for y, name in ((6.2, "mlp.hook_pre"), (7.35, "mlp.hook_post"), (8.5, "hook_mlp_out")):
        _name(axes, 5, y, name, MLP)
    axes.text(7.0, 2.78, "inside the attention function: computed\nfor the rows that are asked for",
              ha="left", va="center",
              fontsize=9, color=ATTENTION, style="italic")  # fmt: skip
    axes.text(6.5, 9.1, "attention", color=ATTENTION, fontsize=10, weight="bold")
    axes.text(8.0, 9.1, "MLP", color=MLP, fontsize=10, weight="bold")
    offered = {hook.rpartition("}.")[2] for hook in lmm.hooks if hook.startswith("blocks.{layer}")}
    missing = {text.get_text() for text in axes.texts if "hook" in text.get_text()} - offered
    assert not {name for name in missing if "," not in name and "\n" not in name}, missing  # noqa: S101
    return figure


def _branch(axes, low, high, ink):
    axes.plot([1.7, 5, 5], [low, low, high], color=ink, lw=2, zorder=0)
    arrow = {"arrowstyle": "-|>", "lw": 2, "color": ink}
    axes.annotate("", (1.75, high), (5, high), arrowprops=arrow, zorder=0)


def _name(axes, x, y, name, ink, *, computed=False):
    style = {"boxstyle": "round,pad=.35", "fc": "white", "ec": ink, "ls": "--" if computed else "-"}
    axes.text(
        x, y, name, ha="center", va="center", family="monospace", fontsize=9, color=ink, bbox=style
    )
