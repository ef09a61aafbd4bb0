"""Write docs/hook-points.md from the hook table: `python docs/gen_hooks.py`.

A test compares the committed page with what this prints, so the two cannot drift apart.
"""

import sys
from itertools import groupby
from pathlib import Path

from vsink_interp.graph.hook_points import HOOKS, HookPoint

PAGE = Path(__file__).with_name("hook-points.md")
HEAD = """# Hook points

![One decoder layer: residual stream, attention and MLP, and their names](assets/hook_points.png)

<!-- Written by docs/gen_hooks.py from vsink_interp/graph/hook_points.py; edit that instead. -->

A hook point is a named place in the forward pass. Names and axes are TransformerLens's, `blocks` in
names included; elsewhere a decoder layer is called a layer. This is the table that the library
itself works from, in forward order. `lmm.hooks` lists the names that a model offers; asking for
another raises `CapabilityError`.

`{layer}` counts from 0. Edits and probes leave the prefix out and name their layers separately:
`hook="attn.hook_pattern", layers="12:"`. A hook point marked *computed* lies inside the
attention function: it is computed for the rows that an edit or probe asks for, and costs nothing
otherwise.

"""
TITLES = {
    None: "Once per model",
    "blocks": "In every decoder layer",
    "vision_encoder.blocks": "In every layer of the vision encoder",
}
LAYERS = """## Naming layers

| write | and mean |
|---|---|
| `":"` | every layer |
| `"12:"` | from layer 12 on, 12 included |
| `":12"` | the first twelve, 0 to 11 |
| `"-4:"` | the last four |
| `"4:20"` | 4 to 19 |
| `"except 4:20"` | all but 4 to 19 |
| `"0,3,7"` or `(0, 3, 7)` | these three |
| `5` | layer 5 |

A layer that the model does not have is an error, never an empty range.
"""


def row(point: HookPoint) -> str:
    """One line of the table."""
    notes = [point.doc]
    if point.phases == ("prefill",):
        notes.append("prefill only")
    if point.computed:
        notes.append("*computed*")
    return f"| `{point.template}` | `{' '.join(point.axes)}` | {'; '.join(notes)} |"


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for stack, points in groupby(HOOKS, key=lambda point: point.stack):
        title = f"**{TITLES[stack]}**"
        rows = "\n".join(map(row, points))
        parts.append(f"{title}\n\n| name | axes | what it holds |\n|---|---|---|\n{rows}\n\n")
    return "".join([*parts, LAYERS])


if __name__ == "__main__":
    PAGE.write_text(page())
    sys.stdout.write(f"wrote {PAGE.name}: {len(HOOKS)} hook points\n")
