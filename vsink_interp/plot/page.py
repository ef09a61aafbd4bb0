"""The parts of a self-contained HTML page: sections, figures, tables."""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from io import BytesIO
from string import Template
from typing import TYPE_CHECKING, final

from PIL.Image import Image

from .style import COLOURS, DPI, png

if TYPE_CHECKING:
    import matplotlib.figure


@final
@dataclass(frozen=True)
class Section:
    """One part of a page.

    **Attributes:**

    - `name`: the anchor.
    - `title`: in plain text.
    - `source`: the paper and figure that it follows, in plain text.
    - `body`: HTML.
    """

    name: str
    title: str
    source: str
    body: str

    def html(self) -> str:
        """The section as HTML."""
        source = f'<p class="source">{escape(self.source)}</p>' if self.source else ""
        title = escape(self.title)
        return f'<section id="{self.name}"><h2>{title}</h2>{source}\n{self.body}\n</section>'


def text(*paragraphs: str) -> str:
    """A paragraph of HTML; the caller escapes variable text."""
    return "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)


def equation(formula: str, name: str) -> str:
    """A formula in HTML, with its number in docs/papers.md."""
    return f'<div class="equation">{formula} &ensp;<small>{escape(name)}</small></div>'


def setting(words: str) -> str:
    """A line of HTML that says how the numbers above were measured."""
    return f'<p class="setting">{words}</p>'


def note(words: str) -> str:
    """A highlighted remark, given as plain text."""
    return f'<p class="note">{escape(words)}</p>'


def data_uri(content: bytes) -> str:
    """A PNG file as a data URI."""
    return "data:image/png;base64," + b64encode(content).decode("ascii")


_WIDE = 2.2
"""Width over height from which a figure scrolls on a narrow screen, where it would be too small."""


def drawing(figure: "matplotlib.figure.Figure", alt: str) -> str:
    """A matplotlib figure at its own size."""
    return drawn(png(figure), alt)


def drawn(content: bytes, alt: str) -> str:
    """A figure that was written as a PNG file, at its own size."""
    width, height = (int.from_bytes(content[at : at + 4], "big") * 96 // DPI for at in (16, 20))
    image = f'<img src="{data_uri(content)}" width="{width}" alt="{escape(alt)}">'
    wide = ' class="wide" tabindex="0"' if width > _WIDE * height else ""
    return f"<figure{wide}>{image}</figure>"


def photo(image: Image, alt: str) -> str:
    """An image; small ones are enlarged with sharp pixels."""
    shown = image.copy()
    shown.thumbnail((800, 800))
    buffer = BytesIO()
    shown.save(buffer, format="PNG")
    kind = "image" if max(image.size) < 200 else "image plain"
    tag = f'<img src="{data_uri(buffer.getvalue())}" alt="{escape(alt)}">'
    return f'<div class="{kind}">{tag}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table, escaped, with numbers aligned to the right."""
    lines = list(rows)
    kinds = [_kind(value) for value in lines[0]] if lines else [""] * len(head)
    top = "".join(f"<th{kind}>{escape(cell)}</th>" for kind, cell in zip(kinds, head, strict=True))
    top = f"<tr>{top}</tr>" if any(head) else ""
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in lines)
    return f'<div class="scroll"><table>{top}{body}</table></div>'


def _cell(value: object) -> str:
    shown = f"{value:.3f}" if isinstance(value, float) else str(value)
    return f"<td{_kind(value)}>{escape(shown)}</td>"


def _kind(value: object) -> str:
    return ' class="number"' if isinstance(value, int | float) else ""


def chips(pieces: Iterable[tuple[str, str]]) -> str:
    """Tokens as coloured chips: pairs of segment and label."""
    shown = []
    for segment, label in pieces:
        wide = ' class="wide"' if segment == "image" else ""
        colour = COLOURS.get(segment, "#999999")
        ink = "#000" if segment in {"query", "system"} else "#fff"
        style = f"background:{colour};color:{ink}"
        shown.append(f'<span{wide} style="{style}">{escape(label)}</span>')
    legend = "".join(
        f'<span><b style="background:{colour}"></b>{name}</span> '
        for name, colour in COLOURS.items()
        if name != "sink"
    )
    return f'<div class="tokens">{"".join(shown)}</div><p class="legend">{legend}</p>'


def render(
    title: str,
    lead: str,
    facts: str,
    sections: Sequence[Section],
    footer: str,
    *,
    contents: bool = True,
) -> str:
    """The whole page; its `contents` list all sections, where `facts` do not."""
    template = Template(
        files(__name__.rpartition(".")[0]).joinpath("report.html").read_text(encoding="utf-8")
    )
    links = [f'<li><a href="#{one.name}">{escape(one.title)}</a></li>' for one in sections]
    return template.substitute(
        title=escape(title),
        lead=lead,
        facts=facts,
        contents="<nav><ol>\n" + "\n".join(links) + "\n</ol></nav>" if contents else "",
        sections="\n".join(part.html() for part in sections),
        footer=footer,
    )
