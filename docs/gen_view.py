"""Photograph the viewer: `python docs/gen_view.py` writes docs/assets/view.png and view.gif.

The GIF walks through the words of an answer in a headless Chromium, on a real run of the small LMM,
whose packages `make small` installs.
"""

import sys
from base64 import b64decode
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

import vsink_interp as vi
from vsink_interp.small.scenes import photo_scene, photographs
from vsink_interp.toy.language import COLORS, DESCRIBE, SHAPES

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))  # for the browser of the tests
ASSETS = DOCS / "assets"
SEED, LAYER, WIDTH, HEIGHT = 100_056, 22, 1000, 800
"""A scene that was not trained on, and the layer whose words find their objects best."""
WORDS = "[...document.querySelectorAll('.word')].map((w, i) => [i, w.textContent, w.title])"
FAINTER = """(o => { o.value = 0.6; o.dispatchEvent(new Event('input')); })
  (document.querySelector('[aria-label=opacity]'))"""
SHOWN = {*COLORS, *SHAPES}


def shot(browser) -> Image.Image:
    """The page as it is."""
    browser.run("document.activeElement.blur()")
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": HEIGHT, "scale": 1}
    data = browser.ask("Page.captureScreenshot", format="png", clip=clip)["data"]
    return (
        Image.open(BytesIO(b64decode(data)))
        .convert("RGB")
        .resize((WIDTH * 4 // 5, HEIGHT * 4 // 5))
    )


def frames(browser) -> list[Image.Image]:
    """One frame for each content word of the answer, at one layer."""
    for _ in range(30):
        browser.press("ArrowDown")
    for _ in range(LAYER):
        browser.press("ArrowUp")
    browser.run(FAINTER)
    found, told = [], set()
    for place, text, title in browser.run(WORDS):
        if title.startswith("answer") and (text := text.strip()) in SHOWN and text not in told:
            told.add(text)
            browser.run(f"document.querySelectorAll('.word')[{place}].click()")
            found.append(shot(browser))
    return found


def main() -> None:
    """A run, its viewer, the frames, and one of them as the still picture."""
    from tests.viewer.browser import Browser

    lmm, image = vi.LMM.small(), photo_scene(SEED, photographs(), always=True).image
    view = vi.viewer.look(lmm, image, DESCRIBE, heads=f"{LAYER}")
    with TemporaryDirectory() as folder:
        view.save(Path(folder) / "view.html")
        browser = Browser(Path(folder))
        try:
            browser.open(Path(folder) / "view.html", WIDTH, HEIGHT)
            found = frames(browser)
        finally:
            browser.close()
    found[2].quantize(128, dither=Image.Dither.NONE).save(ASSETS / "view.png", optimize=True)
    first = found[0].quantize(96, dither=Image.Dither.NONE)
    rest = [frame.quantize(palette=first, dither=Image.Dither.NONE) for frame in found[1:]]
    first.save(
        ASSETS / "view.gif", save_all=True, append_images=rest, duration=1100, loop=0, optimize=True
    )
    print((ASSETS / "view.gif").stat().st_size // 1000, "kB")


if __name__ == "__main__":
    main()
