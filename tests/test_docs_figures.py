"""The figures of the docs: drawn by the code beside them, named for those who cannot see them."""

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md"))]
IMAGE = re.compile(r"!\[(.*?)\]\((\S+?)\)(?:\{.*?\})?", re.DOTALL)


def module(path):
    spec = spec_from_file_location(path.stem, path)
    found = module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


gen_figures = module(DOCS / "gen_figures.py")


def test_every_figure_was_drawn_by_the_code_that_stands_there():
    """By the digest of that code, which a PNG holds: nothing is drawn here."""
    sources = gen_figures.sources()
    assert {path.stem for path in sources} >= {"tokens", "graphs", "sinks", "knockout", "lenses"}
    stale = [
        path.name for path, code in sources.items()
        if not path.exists() or gen_figures.drawn_by(path) != gen_figures.digest(code)
    ]  # fmt: skip
    assert not stale, f"run: python docs/gen_figures.py {' '.join(Path(s).stem for s in stale)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_images_are_there_and_say_what_they_show(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for alt, source in IMAGE.findall(text):
        assert (page.parent / source).exists(), source
        assert len(alt.split()) >= 3, f"{source}: what does it show?"


@pytest.mark.parametrize("page", sorted((DOCS / "concepts").glob("*.md")), ids=lambda p: p.stem)
def test_a_concept_opens_with_a_picture(page):
    opening = page.read_text().split("\n\n")[1]
    assert IMAGE.match(opening), "a picture before the first sentence"


def test_the_site_is_built_with_every_hook():
    """YAML keeps the last of two keys of one name, without a word."""
    keys = re.findall(r"^(\w+):", (DOCS.parent / "mkdocs.yml").read_text(), re.MULTILINE)
    assert len(keys) == len(set(keys))


def test_formulas_are_mathml():
    """A formula in a line, one on its own, and a dollar that is none."""
    typeset = module(DOCS / "mathml.py").on_page_content
    html = '<p><span class="arithmatex">\\(a &lt; b\\)</span> costs $5</p>'
    shown = typeset(html)
    assert "<math" in shown and "&lt;" in shown.replace("&#x0003C;", "&lt;")
    assert shown.endswith("costs $5</p>")
    alone = typeset('<div class="arithmatex">\\[\\frac{1}{2}\\]</div>')
    assert 'display="block"' in alone and "<mfrac>" in alone


def test_every_plot_is_in_the_gallery():
    from vsink_interp import plot

    shown = "".join(code for code, _ in gen_figures.gallery()) + gen_figures.GALLERY.read_text()
    drawing = {name for name in dir(plot) if name.islower() and callable(getattr(plot, name))}
    missing = {name for name in drawing - {"png", "report"} if f"plot.{name}(" not in shown}
    assert not missing, "show them in docs/gallery.md"


def test_errors_by_message_quotes_messages():
    """Each quoted part of a message, but those of other packages, stands in the code."""
    page = (DOCS / "errors.md").read_text().split("## Not ours")[0]
    cells = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    quoted = [part for cell in cells for part in re.findall(r"`([^`]+)`", cell)]
    code = "".join(path.read_text() for path in (DOCS.parent / "vsink_interp").rglob("*.py"))
    joined = re.sub(r'"\s*\n\s*f?"', "", code)
    assert len(quoted) > 40
    assert not [part for part in quoted if part.strip("; ") not in joined]
