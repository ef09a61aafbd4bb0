"""What the last line of a notebook cell shows: one line of text, and HTML that loads nothing."""

import inspect
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

import vsink_interp as vi
from vsink_interp import experiments as ex
from vsink_interp.model.progress import shown
from vsink_interp.results.result import OneLine

RESULTS = [c for _, c in inspect.getmembers(ex, inspect.isclass) if issubclass(c, OneLine)]


class Tags(HTMLParser):
    """Opened and closed tags, and what they load."""

    def __init__(self):
        super().__init__()
        self.open, self.loads = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("img", "br", "meta", "link", "input"):
            self.open.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def is_whole(html):
    tags = Tags()
    tags.feed(html)
    assert not tags.open
    assert all(re.match(r"data:|#", where) for where in tags.loads)
    return tags


@pytest.fixture(scope="module")
def things(lmm, scene):
    encoding = lmm.encode([scene.image, scene.image], ["describe the image", "how many?"])
    graph = vi.probes.NonSinkRatio() | vi.probes.SegmentMass(groups=("image",))
    run = lmm.generate(scene.image, "describe the image", graph, max_new_tokens=6)
    return {
        "LMM": lmm,
        "Scene": scene,
        "Encoding": encoding,
        "TokenLayout": encoding.layout,
        "HeadRanking": vi.rank_heads(run),
        "SinkReport": lmm.sink_report,
        "Spectrum": ex.spectrum(lmm, scene.image, "describe the image"),
        "WordMaps": ex.word_maps(
            lmm, scene.image, "describe the image", graph=vi.EditGraph(), max_new_tokens=6
        ),
        "Cases": ex.Cases.scenes(2),
    }


NAMES = ("LMM Scene Encoding TokenLayout HeadRanking SinkReport Spectrum WordMaps Cases").split()


@pytest.mark.parametrize("name", NAMES)
def test_a_repr_is_one_line(things, name):
    text = repr(things[name])
    assert text.startswith(f"{name}(")
    assert "\n" not in text
    assert "tensor(" not in text
    assert "array(" not in text
    assert len(text) < 600


@pytest.mark.parametrize("name", [name for name in NAMES if name != "SinkReport"])
def test_html_loads_nothing(things, name):
    tags = is_whole(things[name]._repr_html_())
    drawn = name in ("Scene", "Encoding", "HeadRanking", "Spectrum", "WordMaps")
    assert bool(tags.loads) == drawn


def test_what_the_html_says(things):
    lmm, encoding = things["LMM"], things["Encoding"]
    html = lmm._repr_html_()
    assert f"{sum(p.numel() for p in lmm.hf_model.parameters()):,}" in html
    assert str(lmm.sinks.dims) in html
    assert "attn.hook_pattern" in html
    assert "image 64" in encoding._repr_html_()
    assert encoding._repr_html_().count("data:image/png") == 2, "one grid for each image"
    assert encoding.prompts[0].replace("<", "&lt;").replace(">", "&gt;") in encoding._repr_html_()


def test_long_vectors_are_not_spelt_out():
    edit = vi.Steer(torch.arange(4096.0), layers=4)
    assert len(repr(edit)) < 120
    assert "<4096 numbers, " in repr(edit)
    assert repr(edit) == repr(vi.Steer(np.arange(4096.0), layers=4))
    assert repr(edit) != repr(vi.Steer(torch.arange(4096.0) + 1, layers=4))
    again = vi.EditGraph.from_json(vi.EditGraph(edit).to_json())
    assert again == vi.EditGraph(edit)
    assert repr(again) == repr(vi.EditGraph(edit))


@pytest.mark.parametrize("cls", RESULTS, ids=lambda cls: cls.__name__)
def test_every_result_names_its_figure(cls):
    assert cls.__repr__ is OneLine.__repr__
    assert not cls.figure or callable(getattr(vi.plot, cls.figure))


def test_all_results_are_such():
    plain = {n for n, c in inspect.getmembers(ex, inspect.isclass) if not issubclass(c, OneLine)}
    assert plain == {"AnswerWord"}, "a value of two fields, that prints as it is"


def test_a_result_draws_itself(things):
    assert things["Spectrum"].plot().axes
    with pytest.raises(vi.CapabilityError, match="Cases has no figure"):
        things["Cases"].plot()


class Terminal:
    """A stderr that says it is a terminal."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("terminal", "disabled", "drawn"), [(True, "0", True), (True, "1", False), (False, "0", False)]
)
def test_a_bar_in_a_terminal_alone_and_off_by_one_setting(monkeypatch, terminal, disabled, drawn):
    stream = Terminal()
    monkeypatch.setattr(Terminal, "isatty", lambda _: terminal)
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TQDM_DISABLE", disabled)
    tell = shown(None, "patches")
    for done in (1, 2, 4):
        tell(done, 4)
    assert ("patches: 100%" in stream.text and "4/4" in stream.text) == drawn
    assert bool(stream.text) == drawn


def test_a_tick_of_ones_own_takes_the_place_of_the_bar():
    told = []
    shown(lambda *done: told.append(done), "patches")(1, 2)
    assert told == [(1, 2)]
