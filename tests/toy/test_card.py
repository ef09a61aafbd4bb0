"""The card says what was measured, and its two copies agree."""

import json
from pathlib import Path

import pytest

from vsink_interp.toy import weights_dir
from vsink_interp.toy.card import END, START, refresh, render
from vsink_interp.toy.schedule import SCHEDULE

DOCS = Path(__file__).parents[2] / "docs" / "toy-model-card.md"


@pytest.fixture
def figures():
    return json.loads((weights_dir / "metrics.json").read_text())


def test_card_holds_the_kept_figures(figures):
    card = (weights_dir / "CARD.md").read_text()
    assert render(figures).strip() in card
    assert figures["scenes"] == 500
    other = figures | {"scenes": 499}
    assert render(other).strip() not in card
    if DOCS.exists():
        assert DOCS.read_text() == card


def test_refresh_replaces_the_figures_alone(figures, tmp_path):
    path = tmp_path / "card.md"
    path.write_text(f"before {START} old {END} after")
    refresh(path, figures)
    text = path.read_text()
    assert text.startswith("before ") and text.endswith(" after")
    assert " old " not in text and render(figures) in text


def test_sink_losses_are_off_for_the_last_third():
    steps = [stage.steps for stage in SCHEDULE]
    last = max(
        at
        for at, stage in enumerate(SCHEDULE)
        if stage.sink_weight or stage.stray or stage.grounding
    )
    assert 3 * sum(steps[last + 1 :]) >= sum(steps)
    assert SCHEDULE[last].kind == "language"


def test_kept_figures_meet_what_is_claimed(figures):
    answers, sinks, cut = figures["answers"]["accuracy"], figures["sinks"], figures["knockout"]
    assert figures["caption"]["object_f1"] >= 0.90
    assert answers["object"] >= 0.90 and answers["color"] >= 0.90 and answers["where"] >= 0.85
    assert sinks["dims"] and sinks["scenes_with_sink_everywhere"] >= 0.95
    assert min(share for share in sinks["on_background"] if share is not None) >= 0.90
    masked, moved = sinks["masking_f1"], sinks["contribution"]
    assert masked["none"] - masked["sinks"] < masked["none"] - masked["random_fixed"]
    assert moved["attention_sink"] > moved["attention_other"]
    assert 1 < cut["recovery_layer"] < len(cut["yes_no"]) - 2
    flows = cut["caption_f1"]
    assert flows["generated"][0] > flows["query+generated"][0]
