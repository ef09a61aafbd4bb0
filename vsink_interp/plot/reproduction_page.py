"""The page of all reproductions: figure, verdict, published numbers, table."""

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..reproduction import NOT_ESTABLISHED, PAPERS, VERDICTS, find
from .page import Section, drawn, note, render, setting, table, text

INK = {True: "#00695c", False: "#b3261e", None: "#5b6670"}
"""The colour of a verdict."""
MANY = {"holds": "hold", "does not hold": "do not hold"}
"""Verdicts of several claims."""


def page(folder: Path, found: Sequence[Mapping[str, Any]], about: str) -> str:
    """One self-contained HTML page of what a folder of reproductions holds.

    **Arguments:**

    - `about`: the model, and the cases.
    """
    seconds = sum(one.get("seconds", 0.0) for one in found)
    lead = f"Every figure, table and ablation of both papers, measured anew: {escape(about)}."
    counts = Counter(map(_verdict, found))
    told = ", ".join(
        f"{count} {verdict if count == 1 else MANY.get(verdict, verdict)}"
        for verdict, count in counts.most_common()
    )
    facts = setting(f"{len(found)} in {seconds / 60:.1f} minutes; of their claims: {told}.")
    missing = Section(
        "not-established", "Not established", "", text(*(escape(one) for one in NOT_ESTABLISHED))
    )
    sections = [*(_section(folder, one) for one in found), missing]
    return render("Reproductions", lead, facts + _contents(found), sections, "", contents=False)


def _contents(found: Sequence[Mapping[str, Any]]) -> str:
    """A line for each: a link, what it shows, the verdict."""
    lines = "".join(
        f'<tr><td class="source"><a href="#{one["name"]}">{escape(one["name"])}</a></td>'
        f"<td>{escape(one['title'])}</td>"
        f'<td style="color:{INK[one.get("holds")]};white-space:nowrap">{_verdict(one)}</td></tr>'
        for one in found
    )
    head = "<tr><th></th><th>shows</th><th>the claim</th></tr>"
    return f'<div class="scroll"><table>{head}{lines}</table></div>'


def _verdict(one: Mapping[str, Any]) -> str:
    return "not measured" if "error" in one else VERDICTS[one["holds"]]


def _section(folder: Path, one: Mapping[str, Any]) -> Section:
    entry = find(one["name"])
    title = f"{entry.name}: {entry.title}"
    if "error" in one:
        return Section(entry.name, title, PAPERS[entry.paper].replace("*", ""), note(one["error"]))
    verdict = f'<b style="color:{INK[one["holds"]]}">{_verdict(one)}</b>'
    parts = [
        text(f"{verdict}: {escape(entry.claim)}."),
        drawn((folder / f"{entry.name}.png").read_bytes(), entry.title),
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
