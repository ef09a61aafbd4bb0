"""Tables of `docs/evaluation.md`, each between two comments of its own."""

from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "evaluation.md"


def write_table(name: str, text: str) -> None:
    """Put a text where the page has the comments `NAME: begin` and `NAME: end`."""
    begin, end = (f"<!-- {name}: {edge} -->" for edge in ("begin", "end"))
    page = PAGE.read_text()
    head, tail = page.split(begin)[0], page.split(end)[1]
    PAGE.write_text(f"{head}{begin}\n{text}\n{end}{tail}")
