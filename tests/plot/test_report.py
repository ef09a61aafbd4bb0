"""The report: one file that holds everything, and that a browser shows with the network shut."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest

import vsink_interp as vi
from vsink_interp import plot
from vsink_interp.plot.about_sinks import ablation
from vsink_interp.plot.report import CHAPTERS

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


def short(study):
    """The same study with answers of six tokens, for speed."""
    return replace(study, cases=replace(study.cases, max_new_tokens=6))


@pytest.fixture(scope="module")
def page(sunk):
    seen = []
    study = short(plot.Study.of_scenes(sunk, scenes=2))
    html = plot.report(study, watch=lambda what, share: seen.append((what, share)))
    shares = [share for _, share in seen]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert {what for what, _ in seen} == {chapter.title for chapter in CHAPTERS}
    return html


@pytest.mark.parametrize(
    ("tau", "cases", "said"),
    [
        (2.1, 3, "more sinks than other image tokens in some layer: 0, 2 (counted from 0)."),
        (0.5, 1, "Nothing to compare: toy scenes 5 to 5: more sinks than"),
    ],
)
def test_what_has_no_control_is_named_and_the_rest_is_told(sunk, monkeypatch, tau, cases, said):
    """Seeds 5 to 7: of the first and the last most tokens are sinks at 2.1, of all at 0.5."""
    monkeypatch.setattr(sunk, "sinks", replace(sunk.sinks, tau=tau))
    study = short(plot.Study.of_scenes(sunk, scenes=cases, seed=5))
    told = ablation(study)
    assert said in told
    assert "attention and contribution of sinks" in told


class Tags(HTMLParser):
    """Every tag with its attributes, and the tags that were left open."""

    VOID = ("img", "meta", "link", "br")

    def __init__(self, html):
        super().__init__()
        self.found, self.open = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_every_chapter_is_there(page):
    for chapter in CHAPTERS:
        body = page.split(f'id="{chapter.name}"')[1].split("</section>")[0]
        assert "could not be made" not in body, chapter.title
        assert len(body) > 300, chapter.title
    assert "None of the following is claimed" in page
    assert page.count("<img") >= 10


def test_the_page_points_at_nothing_outside(page):
    tags = Tags(page)
    assert tags.open == []
    addresses = [
        value
        for _, attributes in tags.found
        for name, value in attributes.items()
        if name in {"src", "href", "srcset", "action", "data"}
    ]
    assert addresses
    assert all(re.match(r"data:|#", address) for address in addresses)
    assert not re.search(r"@import|url\(\s*['\"]?http", page.split("</style>")[0])


def test_figures_have_alternative_text(page):
    images = [attributes for tag, attributes in Tags(page).found if tag == "img"]
    assert all(len(image.get("alt", "")) > 5 for image in images)


def test_a_model_without_sinks_still_gets_a_report(sunk, monkeypatch):
    def none(_):
        raise vi.CapabilityError("no sink dimension found")

    monkeypatch.setattr(vi.LMM, "sinks", property(none))
    monkeypatch.setattr(sunk, "_sinks", None)  # nor were any found before
    html = plot.report(short(plot.Study.of_scenes(sunk, scenes=1)))
    assert html.count("This figure could not be made here: no sink dimension found") == 5
    assert 'id="knockout"' in html
    assert "share of objects hit over the layers" in html
    assert "object F1 against the first layer cut" in html


def test_a_report_on_an_image_of_your_own(sunk, tmp_path):
    """Nobody knows the truth about it: the uncut answer is the reference."""
    vi.toy.scene(4).image.resize((100, 80)).save(tmp_path / "mine.png")
    study = plot.Study.of_image(
        sunk, tmp_path / "mine.png", "what is <b>this</b>?", max_new_tokens=5
    )
    html = plot.report(study)
    assert "what is &lt;b&gt;this&lt;/b&gt;?" in html
    assert "<b>this" not in html
    assert "object F1 against the uncut answer, uncut 1.000" in html
    assert "That the answer is right." in html
    assert "no object masks are known" in html


WATCH = """<script>
window.seen = [];
addEventListener("error", e => seen.push("error: " + (e.message || e.target.tagName)), true);
addEventListener("unhandledrejection", e => seen.push("rejected: " + e.reason));
addEventListener("securitypolicyviolation", e => seen.push("asked for " + e.blockedURI));
for (const name of ["error", "warn"]) {
  const say = console[name];
  console[name] = (...words) => { seen.push(name + ": " + words.join(" ")); say(...words); };
}
addEventListener("load", () => setTimeout(() => {
  const images = [...document.images].map(i => [i.alt, i.naturalWidth, i.naturalHeight, i.width]);
  const asked = performance.getEntriesByType("resource").map(e => e.name)
    .filter(name => name.startsWith("http"));
  const tokens = document.querySelector("#strengths [id^=circuits-vis]").innerText;
  const view = document.querySelector("#every-word .vsink");
  const words = [...view.querySelectorAll(".word.answer")].map(w => w.textContent);
  const wide = document.documentElement.scrollWidth - innerWidth;
  const out = document.createElement("pre");
  out.id = "found";
  const ready = view.dataset.ready;
  out.textContent = JSON.stringify({seen, images, asked, tokens, wide, words, ready});
  document.body.append(out);
}, 1500));
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_a_browser_shows_it_offline(page, tmp_path):
    """Errors are collected in the page, from before its first script on; names do not resolve."""
    file = tmp_path / "report.html"
    file.write_text(page.replace("<head>", f"<head>{WATCH}", 1), encoding="utf-8")
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'profile'}",
        "--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9",
        "--window-size=1200,2000", "--virtual-time-budget=8000", "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    match = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert match, done.stderr[-2000:]
    found = json.loads(match[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert found["seen"] == []
    assert found["asked"] == []
    assert len(found["images"]) >= 10
    assert all(min(width, height, shown) > 0 for _, width, height, shown in found["images"])
    assert "describe" in found["tokens"]
    assert found["ready"] == "yes", "the viewer shows its maps"
    assert len(found["words"]) == 6
    assert found["wide"] <= 0
