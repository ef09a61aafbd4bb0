"""The page of all reproductions: figure, verdict, published numbers, table."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..reproduction import NOT_ESTABLISHED, PAPERS, VERDICTS, find
from .page import Section, data_uri, note, render, setting, table, text


def page(folder: Path, found: Sequence[Mapping[str, Any]]) -> str:
    """One self-contained HTML page of what a folder of reproductions holds."""
    rows = [[one["name"], one["title"], _verdict(one)] for one in found]
    lead = "Every figure, table and ablation of both papers, measured anew."
    facts = table(["", "shows", "the claim"], rows)
    missing = Section(
        "not-established", "Not established", "", text(*(escape(one) for one in NOT_ESTABLISHED))
    )
    sections = [*(_section(folder, one) for one in found), missing]
    return render("Reproductions", lead, facts, sections, "")


def _verdict(one: Mapping[str, Any]) -> str:
    return "not measured" if "error" in one else VERDICTS[one["holds"]]


def _section(folder: Path, one: Mapping[str, Any]) -> Section:
    entry = find(one["name"])
    title = f"{entry.name}: {entry.title}"
    if "error" in one:
        return Section(entry.name, title, PAPERS[entry.paper].replace("*", ""), note(one["error"]))
    picture = data_uri((folder / f"{entry.name}.png").read_bytes())
    alt = escape(entry.title)
    parts = [
        text(f"<b>{_verdict(one)}</b>: {escape(entry.claim)}."),
        f'<figure><img src="{picture}" style="max-width:100%" alt="{alt}"></figure>',
        setting(escape(one["because"])),
    ]
    if entry.published:
        lines = [(p.what, p.value, p.source) for p in entry.published]
        parts.append(table(["published", "", "source"], lines))
    if entry.note:
        parts.append(text(escape(entry.note)))
    parts.append(
        f"<details><summary>all means</summary><pre>{escape(one['table'])}</pre></details>"
    )
    return Section(entry.name, title, PAPERS[entry.paper].replace("*", ""), "\n".join(parts))
