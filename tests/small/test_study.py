"""The study of natural sinks: its page is what was measured, its arms are what they say."""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import vsink_interp

BENCHMARKS = Path(vsink_interp.__file__).parents[1] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import natural_sinks_measures as measures
    import natural_sinks_page as page
    import told

    yield SimpleNamespace(measures=measures, page=page, told=told)
    for name in ("natural_sinks_measures", "natural_sinks_page", "small_figures", "told"):
        sys.modules.pop(name, None)


def test_the_page_holds_the_kept_figures(scripts):
    page = scripts.page
    figures = json.loads(page.FIGURES.read_text())
    written = page.page(figures)
    assert written == page.PAGE.read_text(), "python benchmarks/natural_sinks.py --write"
    assert "Not measured" not in written
    figures["anchored"]["hiding"]["caption words"]["sinks"]["is"][0] = 0.123
    assert "| 0.123 |" in page.page(figures)
    assert "{{" not in written


@dataclass
class Held:
    lmm: object
    free: torch.Tensor
    scenes: list
    image: torch.Tensor


def test_multiples_that_the_text_says_in_words(scripts):
    """How many times what other image tokens add a sink adds; of the first also the attention."""
    figures = json.loads(scripts.page.FIGURES.read_text())

    def times(form, quantity):
        kinds = ("visual sinks", "other image tokens")
        path = f"{form} > A.fig3c > {quantity}, "
        sinks, others = (scripts.told.figure(figures, path + kind)[0] for kind in kinds)
        return round(sinks / others)

    text = " ".join(scripts.page.TEXT.read_text().split())
    assert times("anchored", "contribution") == 12 and "They add twelve times as much" in text
    assert "here they add twelve times as much" in text
    assert times("seed-0", "contribution") == 7 and "in seed 0 seven times as much" in text
    assert f"({times('anchored', 'attention')} times)" in text


NOISE, MADE = "noise with their mean and spread", "what the projector makes"
WORD, LARGE = "the word of the background", "the same, three times as large"
FIRST, USER = "nothing: the image comes first", "start token, `user`, line break"
ALONE = "the start token alone"


@pytest.mark.parametrize(
    ("said", "form", "measure", "of", "to", "layer", "low", "high"),
    [
        ("three times as many late sinks", "aligned", "made of", NOISE, MADE, 15, 2.75, 3.25),
        ("after training a quarter more", "anchored", "made of", NOISE, MADE, 15, 1.2, 1.3),
        ("more than twice as many early", "aligned", "made of", WORD, MADE, 6, 2.0, 2.5),
        ("less than half of the late", "anchored", "made of", WORD, MADE, 15, 0.4, 0.5),
        ("four in ten fewer late", "aligned", "made of", LARGE, MADE, 15, 0.55, 0.65),
        ("four in ten fewer late", "anchored", "made of", LARGE, MADE, 15, 0.55, 0.65),
        ("half as many late ones", "aligned", "before the image", USER, ALONE, 15, 0.45, 0.55),
        ("image first, a fifth more", "anchored", "before the image", FIRST, ALONE, 15, 1.15, 1.25),
        ("`user`, a fifth fewer", "anchored", "before the image", USER, ALONE, 15, 0.75, 0.85),
    ],
)
def test_shares_that_the_text_says_in_words(scripts, said, form, measure, of, to, layer, low, high):
    found = json.loads(scripts.page.FIGURES.read_text())[form][measure]
    ratio = found[of][str(layer)]["sinks"][0] / found[to][str(layer)]["sinks"][0]
    assert low < ratio < high
    assert said in " ".join(scripts.page.TEXT.read_text().split())


def test_what_the_text_says_of_answers_holds(scripts):
    """No kind of question loses an answer; words find their objects best where it says."""
    ours = json.loads(scripts.page.FIGURES.read_text())["anchored"]
    for kind in scripts.page.QUESTIONS:
        assert ours["hiding"][kind]["sinks"]["less nothing's"] == [0, 0, 0], kind
    best = float(re.search(r"image, layer 22: ([\d.]+)", ours["B.fig7"]["because"])[1])
    assert f"here {best:.3f} at best".replace(" 0.", " .") in scripts.page.TEXT.read_text()


def drawn(scenes=40):
    """phi of 30 layers, a first token and 64 image tokens, and which patches hold no object."""
    rng = np.random.default_rng(1)
    values = torch.from_numpy(rng.choice([15.0, 23.0], (30, scenes, 65), p=[0.9, 0.1]))
    free = torch.from_numpy(rng.random((scenes, 64)) < 0.85)
    return SimpleNamespace(lmm=SimpleNamespace(sinks=SimpleNamespace(tau=20.0)), free=free), values


def test_as_many_others_are_hidden_and_the_first_patch_in_no_arm_but_its_own(scripts):
    held, values = drawn()
    is_sink = values[scripts.measures.MIDDLE, :, 1:] >= 20
    arms = scripts.measures.arms_of(held, values)
    assert list(arms) == ["nothing", "sinks", "random image", "random background", "first patch"]
    many = arms["sinks"].sum(-1)
    assert many.sum() > 100
    for name in ("random image", "random background"):
        assert torch.equal(arms[name].sum(-1), many)
        assert not (arms[name] & is_sink).any()
    assert not (arms["random background"] & ~held.free).any()
    assert (arms["random image"] & ~held.free).any()
    assert not any(arms[name][:, 0].any() for name in list(arms)[:-1])
    assert arms["first patch"].nonzero()[:, 1].tolist() == [0] * 40
    assert not arms["nothing"].any()


def test_scenes_with_too_few_others_are_left_out(scripts):
    """Where most of the background is sinks, as many random ones would be objects and sinks."""
    held, values = drawn()
    values[scripts.measures.MIDDLE, 3] = 23.0
    values[scripts.measures.MIDDLE, 3, 60:] = 15.0
    with pytest.raises(ValueError, match="random image: fewer others than sinks"):
        scripts.measures.arms_of(held, values)
    held.scenes, held.image = list(range(40)), torch.zeros(40, 64, 2)
    part, kept = scripts.measures.with_controls(Held(**vars(held)), values)
    assert part.scenes == [number for number in range(40) if number != 3]
    assert torch.equal(kept, values[:, part.scenes]) and len(part.image) == 39
    arms = scripts.measures.arms_of(part, kept)
    assert not (arms["random background"] & ~part.free).any()
    everywhere = scripts.measures.without_controls(Held(**vars(held)), values)
    assert list(everywhere) == ["nothing", "sinks"]
    assert everywhere["sinks"][3].tolist() == [False] + [True] * 58 + [False] * 5
    assert torch.equal(everywhere["sinks"][part.scenes], arms["sinks"])


def test_counts_of_a_row_written_by_hand(scripts):
    """Three scenes: a run of two in front, one sink on an object behind, none."""
    is_sink = torch.zeros(3, 64, dtype=torch.bool)
    is_sink[0, :2] = is_sink[1, 9] = True
    free = torch.ones(3, 64, dtype=torch.bool)
    free[1, 9] = False
    found = scripts.measures.counted(SimpleNamespace(free=free), is_sink)
    assert {name: round(value[0], 4) for name, value in found.items()} == {
        "sinks": 1.0,
        "scenes with one": 0.6667,
        "of background": round(2 / 64 / 3, 4),
        "of objects": 1.0,  # the one scene that has one
        "in the leading run": 0.5,  # both of the first, none of the second
    }
    assert found["sinks"][1] == 0 and found["sinks"][2] == 2, "the least and the most of a draw"
    above = scripts.measures.above
    assert above(torch.tensor([2.0, 0.0]), torch.tensor([1.0])) == 0.5


def test_figures_of_the_text_are_the_kept_ones(scripts):
    """Names lead to a figure; a cost is a loss with its sign turned round."""
    told = scripts.told
    kept = {
        "form": {
            "hiding": {"yes/no": {"sinks": [-0.0512, -0.125, 0.25]}},
            "steps": 1520,
            "by layer": {"sinks": [[0.0, 0.0, 0.0], [8.46, 7.0, 9.0]]},
            "A.fig": {
                "because": "a, b: 0.969; c: 0.775; difference +0.194 [-0.090, +0.298]; more",
                "rows": [[{"tokens": "sinks", "layer": 3}, 0.5, 0.25, 0.75]],
            },
        }
    }
    for path, form, said in (
        ("form > hiding > yes/no > sinks", "3", "-.051 [-.125, .250]"),
        ("form > hiding > yes/no > sinks", "=0", "0"),
        ("form > hiding > yes/no > sinks", "~2", ".05 [-.25, .12]"),
        ("form > hiding > yes/no > sinks", "=~3", ".051"),
        ("form > by layer > sinks > 1", "=1", "8.5"),
        ("form > steps", "0", "1,520"),
        ("form > A.fig > sinks, 3", "+2", "+.50 [+.25, +.75]"),
        ("form > A.fig > difference", "3", ".194 [-.090, .298]"),
    ):
        assert told.told(told.figure(kept, path), form) == said
    with pytest.raises(KeyError, match="'count' is none of yes/no"):
        told.figure(kept, "form > hiding > count")
    with pytest.raises(ValueError, match="none of"):
        told.told(0.5, "*2")
    text = "{{form > by layer >\nsinks > 1 | =1}} sinks, {{a table}}{{another}}"
    assert told.filled(text, kept, {"a table": "|"}) == "8.5 sinks, |*Not measured: another.*"
