"""Tables in pages of the docs, each between two comments of its own."""

from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "evaluation.md"


def write_table(name: str, text: str, page: Path = PAGE) -> None:
    """Put a text where the page has the comments `NAME: begin` and `NAME: end`."""
    begin, end = (f"<!-- {name}: {edge} -->" for edge in ("begin", "end"))
    whole = page.read_text()
    head, tail = whole.split(begin)[0], whole.split(end)[1]
    page.write_text(f"{head}{begin}\n{text}\n{end}{tail}")
