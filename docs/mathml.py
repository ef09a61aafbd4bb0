"""Typeset the formulas of the site as MathML when it is built: no page loads a script for them.

A hook of mkdocs: `$...$` in a line, `$$...$$` on its own, in the LaTeX that GitHub shows as well.
"""

import re
from html import unescape

from latex2mathml.converter import convert

MATH = re.compile(r'<(span|div) class="arithmatex">\\(\(|\[)(.*?)\\(?:\)|\])</\1>', re.DOTALL)


def typeset(found: re.Match) -> str:
    """One formula; those on their own line scroll where they are too wide."""
    tag, opening, latex = found.groups()
    block = opening == "["
    math = convert(unescape(latex).strip(), display="block" if block else "inline")
    math = math.replace("&#x029F5;", "&#x02216;")  # fonts have a set minus, few this one
    return f'<{tag} class="math">{math}</{tag}>'


def on_page_content(html: str, **_: object) -> str:
    """The page with its formulas typeset."""
    return MATH.sub(typeset, html)
