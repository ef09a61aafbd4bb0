"""The docs cannot rot: their code runs, what is generated is fresh, the site stands alone."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from runpy import run_path
from shutil import which

import pytest

from tests.viewer.browser import CHROMIUM, Browser, wait

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
RUNNABLE = [page for page in PAGES if BLOCK.search(page.read_text())]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_the_pages_have_code():
    assert {"README.md", "docs/quickstart.md"} <= {name(page) for page in RUNNABLE}


@pytest.mark.parametrize("page", RUNNABLE, ids=name)
def test_code_on_a_page_runs(page, tmp_path, monkeypatch):
    """The ```python blocks of a page, in order, as one script; ```py blocks are for reading."""
    script = tmp_path / "page.py"
    script.write_text("\n".join(BLOCK.findall(page.read_text())))
    monkeypatch.chdir(tmp_path)
    run_path(str(script))


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name)
def test_every_table_has_a_head(page):
    """Rows behind a blank line are no table any more: the site shows bars."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for rows in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        assert re.match(r"\|[ |:-]+\|$", [*rows.splitlines(), ""][1]), rows[:80]


@pytest.mark.skipif(which("basedpyright") is None, reason="basedpyright: make pyright")
def test_the_cookbook_type_checks(tmp_path):
    """As user code, in the mode `standard`; `make pyright` installs what it needs."""
    page = (ROOT / "docs" / "cookbook.md").read_text()
    (tmp_path / "cookbook.py").write_text("\n".join(BLOCK.findall(page)))
    settings = {"typeCheckingMode": "standard", "extraPaths": [str(ROOT)]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run(
        ["basedpyright", "--pythonpath", sys.executable, "-p", tmp_path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_the_hook_page_is_fresh():
    spec = spec_from_file_location("gen_hooks", ROOT / "docs" / "gen_hooks.py")
    gen_hooks = module_from_spec(spec)
    spec.loader.exec_module(gen_hooks)
    assert gen_hooks.PAGE.read_text() == gen_hooks.page(), "run: python docs/gen_hooks.py"


def test_the_benchmark_page_is_fresh(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import page

    figures = json.loads((ROOT / "benchmarks" / "figures.json").read_text())
    assert (ROOT / "docs" / "benchmarks.md").read_text() == page.page(figures), "run: make bench"


def test_every_command_is_on_the_command_line_page():
    from vsink_interp.cli.main import app

    told = set(
        re.findall(r"^\| `vsink (\S+?)[ `]", (ROOT / "docs/cli.md").read_text(), re.MULTILINE)
    )
    groups = {group.name for group in app.registered_groups}
    assert told == groups | {
        command.name or command.callback.__name__ for command in app.registered_commands
    }


class Loads(HTMLParser):
    """Collects what a page makes a browser load; plain links are the reader's business."""

    def __init__(self):
        super().__init__()
        self.urls = []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag in {"script", "img", "iframe", "source", "video"}:
            self.urls.append(found.get("src"))
        elif tag == "link" and found.get("rel") != "canonical":
            self.urls.append(found.get("href"))


def is_fresh(site):
    """Whether `make docs` has built it since anything changed that it is made of."""
    made = site / "sitemap.xml"
    code = (ROOT / "vsink_interp").rglob("*.py")
    docs = (path for path in (ROOT / "docs").rglob("*.*") if path.suffix != ".pyc")
    sources = [ROOT / "mkdocs.yml", *docs, *(ROOT / "notebooks").glob("*.ipynb"), *code]
    newest = max(source.stat().st_mtime for source in sources)
    return made.exists() and made.stat().st_mtime > newest


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if is_fresh(ROOT / "site"):
        return ROOT / "site"
    if find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: pip install --group docs")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_asks_no_other_server(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 10
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text())
        assert loads.urls, f"{page.name} loads nothing at all: is it a page?"
        foreign = [url for url in loads.urls if url and re.match(r"(https?:)?//", url)]
        assert not foreign, f"{page.name} loads {foreign}"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


LOADED = "document.readyState === 'complete'"


def test_the_search_works_from_a_folder(site, browser):
    """A file:// page may start no worker; the site brings what takes its place."""
    browser.open(site / "index.html", ready=LOADED)
    browser.run("document.querySelector('.md-search__input').focus()")
    browser.ask("Input.insertText", text="knockout")
    wait(lambda: browser.run("document.querySelectorAll('.md-search-result__item').length > 3"))
    assert browser.complaints == []


@pytest.mark.parametrize("page", ["index", "concepts/sinks", "papers", "cookbook", "families"])
def test_nothing_is_cut_off(site, browser, page):
    """No page is wider than the window, and no line of code than its box."""
    for width in (1280, 390):
        browser.open(site / f"{page}.html", width, ready=LOADED)
        assert browser.run("document.documentElement.scrollWidth") <= width
        over = "e => e.scrollWidth > e.clientWidth + 1"
        cut = f"[...document.querySelectorAll('.md-content pre code')].filter({over}).length"
        assert browser.run(cut) == 0
    assert browser.complaints == []


def test_a_figure_of_several_panels_can_be_read_on_a_narrow_screen(site, browser):
    browser.open(site / "concepts" / "sinks.html", 390, ready=LOADED)
    figure = "document.querySelector('p.wide > img')"
    assert browser.run(f"{figure}.clientWidth") > 600
    assert browser.run(f"{figure}.parentElement.scrollWidth > {figure}.parentElement.clientWidth")
