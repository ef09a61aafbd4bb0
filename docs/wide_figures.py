"""Figures of several panels scroll sideways on a narrow screen: they would be too small to read.

A hook of mkdocs: it marks them when the site is built; `assets/site.css` does the rest.
"""

import io
import re
from posixpath import join, normpath
from typing import Any

from PIL import Image

IMAGE = re.compile(r'<p><img alt="[^"]*" src="([^":]+)"')
WIDE = 2.2
"""Width over height from which a figure is wide."""


def on_page_content(html: str, page: Any, files: Any, **_: object) -> str:
    """The page with its wide figures marked, and in reach of the keyboard."""
    folder = page.file.dest_uri.rpartition("/")[0]

    def marked(found: re.Match) -> str:
        file = next((f for f in files if f.dest_uri == normpath(join(folder, found[1]))), None)
        if file is None or not file.dest_uri.endswith((".png", ".jpg", ".jpeg")):
            return found[0]
        width, height = Image.open(io.BytesIO(file.content_bytes)).size
        if width < WIDE * height:
            return found[0]
        return found[0].replace("<p>", '<p class="wide" tabindex="0">', 1)

    return IMAGE.sub(marked, html)
