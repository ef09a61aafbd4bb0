"""Draw the figures of the docs, or some of them: `python docs/gen_figures.py [NAME ...]`.

A file in docs/figures/ draws one figure, docs/assets/NAME.png. On docs/gallery.md every image shows
the `figure` (or `view`) of the code block above it. Each PNG holds the digest of what drew it, and
tests/test_docs_figures.py compares.
"""

import re
import sys
from base64 import b64decode
from hashlib import sha256
from importlib.util import module_from_spec, spec_from_file_location
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep

from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

import vsink_interp as vi

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))  # for the browser of the tests
GALLERY = DOCS / "gallery.md"
BLOCK = re.compile(r"^```py\n(.*?)^```\n+(?:!\[.*?\]\((\S+?\.png)\))?", re.MULTILINE | re.DOTALL)
CLIP = "({x: 0, y: 0, width: 900, height: document.body.scrollHeight + 16, scale: 1})"


def scripts() -> dict[Path, Path]:
    """The figures that have a file of their own, and the file."""
    return {DOCS / "assets" / f"{p.stem}.png": p for p in sorted((DOCS / "figures").glob("*.py"))}


def gallery() -> list[tuple[str, Path | None]]:
    """The blocks of the gallery, in order, and the figure below each."""
    found = BLOCK.findall(GALLERY.read_text())
    return [(code, DOCS / asset if asset else None) for code, asset in found]


def sources() -> dict[Path, str]:
    """Every figure and the code that draws it; in the gallery the first block is part of each."""
    blocks = gallery()
    shown = {asset: blocks[0][0] + code for code, asset in blocks if asset is not None}
    return {asset: script.read_text() for asset, script in scripts().items()} | shown


def digest(code: str) -> str:
    """What a PNG holds of the code that drew it, which may be laid out anew."""
    return sha256(re.sub(r"[\s,]", "", code).encode()).hexdigest()


def drawn_by(path: Path) -> str:
    """The digest in a PNG; empty if it has none."""
    with Image.open(path) as image:
        return image.info.get("Source", "")


def save(path: Path, drawn: object, code: str) -> None:
    """A figure or view as a PNG of at most 256 colours, which halves it."""
    png = vi.plot.png(drawn) if hasattr(drawn, "savefig") else photographed(drawn.html)
    told = PngInfo()
    told.add_text("Source", digest(code))
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.open(BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    image.save(path, pnginfo=told, optimize=True)
    print(path.relative_to(DOCS), path.stat().st_size // 1000, "kB")


def photographed(html: str) -> bytes:
    """What circuitsvis draws, in the headless Chromium that the tests use."""
    from tests.viewer.browser import Browser

    with TemporaryDirectory() as folder:
        page = Path(folder) / "view.html"
        page.write_text(f"<meta charset=utf-8><body style='background:#fff'>{html}")
        browser = Browser(Path(folder))
        try:
            browser.open(page, 900, ready="document.body?.innerText.length > 20")
            sleep(3)
            shot = browser.ask("Page.captureScreenshot", format="png", clip=browser.run(CLIP))
            return cropped(b64decode(shot["data"]))
        finally:
            browser.close()


def cropped(png: bytes, margin: int = 8) -> bytes:
    """A picture without the white around it."""
    image = Image.open(BytesIO(png)).convert("RGB")
    *_, right, bottom = ImageOps.invert(image).getbbox()
    shown = image.crop((0, 0, right + margin, bottom + margin))
    buffer = BytesIO()
    shown.save(buffer, format="PNG")
    return buffer.getvalue()


def run_script(path: Path, lmm: vi.LMM) -> object:
    """The figure of a file in docs/figures."""
    spec = spec_from_file_location(path.stem, path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.draw(lmm)


def main(names: list[str]) -> None:
    """Those that are named, or all."""
    lmm = vi.LMM.toy()
    for asset, script in scripts().items():
        if not names or asset.stem in names:
            save(asset, run_script(script, lmm), script.read_text())
    wanted = [a for _, a in gallery() if a is not None and (not names or a.stem in names)]
    scope, code = {}, sources()
    for block, asset in gallery() if wanted else ():
        scope |= {"figure": None, "view": None}
        exec(compile(block, "gallery.md", "exec"), scope)
        if asset in wanted:
            save(asset, scope["figure"] or scope["view"], code[asset])


if __name__ == "__main__":
    main(sys.argv[1:])
