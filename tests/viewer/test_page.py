"""The viewer in a real browser: picks, hover, keys, no error, no request, hostile text inert."""

import base64
from dataclasses import replace

import numpy as np
import pytest

import vsink_interp as vi
from tests.viewer.browser import CHROMIUM, Browser
from vsink_interp import viewer

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
EVIL = "<script>window.evil=1</script><img src=x onerror='window.evil=1'>&amp;\u2028"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def shown(lmm):
    image = vi.toy.scene(3).image
    return viewer.look(lmm, image, "describe the image", vi.VAR(rho=0.5), heads="3:5", lens=True)


@pytest.fixture
def page(browser, shown, tmp_path):
    shown.save(tmp_path / "view.html")
    browser.open(tmp_path / "view.html")
    yield browser
    assert browser.complaints == []


def told(page):
    return page.run("document.querySelector('.told').textContent")


def label(page):
    return page.run("document.querySelector('.panels canvas').getAttribute('aria-label')")


def pixels(page):
    return page.run("document.querySelector('.panels canvas').toDataURL()")


def test_words_and_layers_are_picked_by_key_and_by_mouse(page, shown):
    first = label(page)
    assert "layer 4" in first
    page.press("ArrowUp")
    assert "layer 5" in label(page)
    before = pixels(page)
    page.press("ArrowRight")
    assert label(page) != first
    assert pixels(page) != before
    page.run("document.querySelectorAll('.word')[0].click()")
    assert f"of {shown.data['rows'][0]['text']}" in label(page)


def test_a_patch_tells_what_is_known_of_it(page, lmm, shown):
    """The values beside the panels are those of the run."""
    page.run("document.querySelectorAll('.word')[5].click()")
    box = page.run(
        "(r => [r.left, r.top, r.width, r.height])"
        "(document.querySelector('.panels canvas').getBoundingClientRect())"
    )
    patch = 8 * 3 + 5
    x, y = box[0] + box[2] * 5.5 / 8, box[1] + box[3] * 3.5 / 8
    page.mouse(x, y, "mouseMoved")
    assert f"patch {patch}, layer 4" in told(page)
    encoding = lmm.encode(vi.toy.scene(3).image, "describe the image")
    maps, phi = vi.probes.AttentionMaps(), vi.probes.SinkValue()
    run = lmm.generate(encoding, graph=maps | phi, max_new_tokens=64)
    want = float(run[maps].values[4, 0, 5, patch])
    got = float(told(page).split("”")[1].split("phi")[0])
    assert got == pytest.approx(
        want, rel=0.02, abs=2 * shown.data["arms"][0]["attention"][0]["top"] / 255**2
    )
    got_phi = float(told(page).split("phi")[1].split("heads")[0].split("(")[0])
    assert got_phi == pytest.approx(float(run.of(phi, "image[0]").values[4, 0, patch]), rel=0.02)
    page.mouse(x, y, "mousePressed", "mouseReleased")
    page.mouse(2, 2, "mouseMoved")
    assert f"patch {patch}" in told(page), "a click keeps it"
    page.press("Escape")
    assert "Point at a patch" in told(page)


def test_heads_are_offered_where_they_were_recorded(page):
    options = "[...document.querySelector('[aria-label=head]').options].map(o => o.value).join()"
    assert page.run(options) == "mean,max,0,1,2,3"
    before = pixels(page)
    page.press("]")
    page.press("]")
    assert "of" in label(page)
    assert pixels(page) != before
    page.run(
        "(p => { p.value = 'phi'; p.dispatchEvent(new Event('change')); })"
        "(document.querySelector('[aria-label=\"what is shown\"]'))"
    )
    assert page.run("document.querySelector('[aria-label=head]').disabled"), "phi is of no head"
    page.press("ArrowUp")
    assert page.run(options) == "mean"


def test_lens_words_are_drawn_over_the_patches(page):
    plain = pixels(page)
    page.run(
        "(p => { p.value = 'lens'; p.dispatchEvent(new Event('change')); })"
        "(document.querySelector('[aria-label=\"what is shown\"]'))"
    )
    assert "lens words" in label(page)
    assert pixels(page) != plain


def test_before_after_and_difference(page):
    found = []
    for _ in range(3):
        found.append(pixels(page))
        page.press("d")
    assert len(set(found)) == 3
    assert pixels(page) == found[0]


def test_sinks_opacity_and_dark(page):
    plain = pixels(page)
    page.press("s")
    assert pixels(page) != plain
    page.press("s")
    assert pixels(page) == plain
    page.press("o")
    assert pixels(page) != plain
    page.run("document.querySelector('[title=\"light or dark\"]').click()")
    ink = "getComputedStyle(document.querySelector('.vsink')).color"
    assert page.run(ink) == "rgb(238, 238, 238)"


def test_the_panels_are_saved_as_a_png(page):
    script = """(() => { let found; const click = HTMLAnchorElement.prototype.click;
      HTMLAnchorElement.prototype.click = function () { found = [this.download, this.href]; };
      document.querySelector('[title^=save]').click();
      HTMLAnchorElement.prototype.click = click; return found; })()"""
    name, source = page.run(script)
    assert name == "attention.png"
    assert base64.b64decode(source.split(",")[1])[:4] == b"\x89PNG"


def test_nothing_is_wider_than_a_telephone(browser, shown, tmp_path):
    shown.save(tmp_path / "view.html")
    browser.open(tmp_path / "view.html", 390, 844)
    assert browser.run("document.documentElement.scrollWidth") <= 390
    assert browser.complaints == []


def test_hostile_text_is_inert(browser, lmm, tmp_path):
    run = lmm.generate(vi.toy.scene(0).image, "describe the image", viewer.view_probes())
    words = (*run.words[0][:-3], EVIL, EVIL, EVIL)
    evil = replace(run, words=(words,), text=EVIL, model=EVIL)
    vi.view(evil, vi.toy.scene(0).image, title=EVIL).save(tmp_path / "evil.html")
    browser.open(tmp_path / "evil.html")
    assert browser.run("window.evil") is None
    assert browser.run("document.title") == EVIL.replace("\u2028", "\u2028")
    texts = browser.run("[...document.querySelectorAll('.word')].map(w => w.textContent)")
    assert texts.count(EVIL.strip()) == 3
    assert browser.complaints == []


def test_a_large_model_is_painted_at_once(browser, tmp_path):
    """32 layers, 60 words, 2,880 image tokens in five views: small, and quick to show."""
    rng = np.random.default_rng(0)
    pack = viewer.payload.packed
    grids = [(24, 24)] * 5
    maps = [pack(rng.random((32, 60, 576)).astype(np.float32) ** 8) for _ in grids]
    phi = [pack(rng.random((32, 576)).astype(np.float32) * 60) for _ in grids]
    boxes = [[c / 24, r / 24, (c + 1) / 24, (r + 1) / 24] for r in range(24) for c in range(24)]
    panel = {"name": "view", "width": 336, "height": 336, "boxes": boxes, "src": None}
    data = {
        "title": "large", "layers": list(range(32)), "start": 0, "sinks": 20.0, "lens": None,
        "rows": [{"text": f"w{i}", "kind": "answer"} for i in range(60)],
        "panels": [panel] * 5, "probes": {"attention": "attention (share)", "phi": "phi"},
        "arms": [{"name": "run", "attention": maps, "phi": phi, "heads": {},
                  "mass": pack(rng.random((32, 32, 60)).astype(np.float32))}],
    }  # fmt: skip
    page = viewer.Viewer(data)
    assert len(page.html) < 20e6
    page.save(tmp_path / "large.html")
    browser.open(tmp_path / "large.html")
    painted = browser.run("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert painted < 10_000, "first paint waits for no map; under a second on an idle machine"
    browser.press("ArrowUp")
    assert "layer 17" in label(browser)
    assert browser.complaints == []
