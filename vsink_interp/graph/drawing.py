"""A graph of edits and probes as text, as a table and as a flowchart."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple


class Row(NamedTuple):
    """What is shown of a node: `edit` or `probe`, its hook point, its layers, the node itself."""

    kind: str
    hook: str
    layers: str
    node: str


def as_text(rows: Sequence[Row]) -> str:
    """One line per node, in columns."""
    if not rows:
        return "empty edit graph"
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(
        " ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row.node])
        for row in rows
    )


def as_mermaid(rows: Sequence[Row]) -> str:
    """A flowchart from the prompt to the answer; edits are boxes, probes parallelograms."""
    lines = ["flowchart LR", "  prompt([prompt])"]
    previous = "prompt"
    for i, row in enumerate(rows):
        text, hook, layers = map(_label, (row.node, row.hook, row.layers))
        shape = ("[", "]") if row.kind == "edit" else ("[/", "/]")
        lines.append(f'  n{i}{shape[0]}"{text}<br/>{hook}<br/>{layers}"{shape[1]}')
        lines.append(f"  {previous} --> n{i}")
        previous = f"n{i}"
    return "\n".join([*lines, "  answer([answer])", f"  {previous} --> answer"])


def as_html(rows: Sequence[Row]) -> str:
    """A table, for notebooks."""
    if not rows:
        return "<em>empty edit graph</em>"
    head = "<tr><th></th><th>hook point</th><th>layers</th><th>node</th></tr>"
    return f"<table>{head}{''.join(map(_cells, rows))}</table>"


def _cells(row: Row) -> str:
    hook, layers, node = (escape(text, quote=False) for text in row[1:])
    return (
        f"<tr><td>{'✎' if row.kind == 'edit' else '👁'} {row.kind}</td>"
        f"<td><code>{hook}</code></td><td>{layers}</td><td><code>{node}</code></td></tr>"
    )


def _label(text: str) -> str:
    """A text inside quotes of a mermaid chart, where HTML and entity codes count."""
    shown = " ".join(text.replace('"', "'").split())
    return shown.replace("#", "#35;").replace("<", "#lt;").replace(">", "#gt;")
