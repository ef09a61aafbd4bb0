"""Rows, their means and intervals, and files of them."""

import csv

import numpy as np
import pytest
from PIL import Image
from scipy.stats import bootstrap

import vsink_interp as vi
from vsink_interp.reproduction import Measurements
from vsink_interp.reproduction.outcomes import both, higher, improved, telling_scores


def rows(values, **labels):
    return [{"case": i, **labels, "value": float(v)} for i, v in enumerate(values)]


def measured(*parts, name="A.fig3b"):
    return Measurements(name, tuple(row for part in parts for row in part), {"model": "m"})


VALUES = np.random.default_rng(1).normal(size=40)


def test_means_and_intervals_are_those_of_a_bootstrap_over_cases():
    found = measured(rows(VALUES, hidden="nothing"))
    (one,) = found.summary(["hidden"])
    want = bootstrap((VALUES,), np.mean, n_resamples=9999, method="percentile", rng=0)
    assert one.mean == pytest.approx(VALUES.mean())
    assert (one.low, one.high) == pytest.approx(tuple(want.confidence_interval), abs=0.03)
    assert one.cases == 40


def test_a_case_counts_once_whatever_number_of_rows_it_has():
    found = measured(rows([1.0, 0.0], draw=0), rows([1.0], draw=1), rows([1.0], draw=2))
    assert found.mean() == 0.5
    assert found.where(draw=0).by_case().tolist() == [1.0, 0.0]


def test_a_missing_label_lists_the_labels():
    with pytest.raises(vi.ResultError, match="nothing"):
        measured(rows([1.0], hidden="nothing")).where(hidden="sinks")


def test_the_table_tells_factors_apart():
    found = measured(rows([1.0, 1.0], hidden="a"), rows([0.0, 0.0], hidden="b"))
    assert found.table().splitlines() == [
        "hidden  mean [95 % bootstrap over 2 cases]",
        "a       1 [1, 1]",
        "b       0 [0, 0]",
    ]


@pytest.mark.parametrize(
    ("more", "less", "holds"),
    [
        ([1, 1, 0.9, 1], [0, 0, 0.1, 0], True),
        ([0, 0, 0.1, 0], [1, 1, 0.9, 1], False),
        ([1, 0, 1, 0], [0, 1, 0, 1], None),
        ([1, 1], [1, 1], None),
        ([1], [0], None),
    ],
)
def test_higher_needs_the_whole_interval(more, less, holds):
    found = measured(rows(more, hidden="a"), rows(less, hidden="b"))
    assert higher(found, {"hidden": "a"}, {"hidden": "b"}).holds is holds


def test_higher_compares_the_same_cases_alone():
    found = measured(rows([1, 1, 1, 1], hidden="a"), rows([0, 0], hidden="b"))
    assert higher(found, {"hidden": "a"}, {"hidden": "b"}).holds
    assert higher(found, {"hidden": "a"}, {"hidden": "c"}).holds is None


def test_a_claim_of_two_parts():
    yes, no, unknown = (vi.reproduction.Outcome(h, "x") for h in (True, False, None))
    assert both(yes, yes).holds
    assert both(yes, no).holds is both(no, unknown).holds is False
    assert both(yes, unknown).holds is None


def difference(metric, value, low, high):
    part = {"task": "t", "split": "all", "metric": metric, "arm": "VAR", "of": "difference"}
    return [{**part, "value": value, "low": low, "high": high}]


@pytest.mark.parametrize(
    ("parts", "holds"),
    [
        ([difference("f1", 0.1, 0.05, 0.2)], True),
        ([difference("CHAIR_s", 0.1, 0.05, 0.2)], False),
        ([difference("CHAIR_s", -0.1, -0.2, -0.05)], True),
        ([difference("f1", 0.1, -0.05, 0.2)], None),
        ([difference("yes ratio", 0.1, 0.05, 0.2)], None),
    ],
)
def test_improved_knows_which_way_is_better(parts, holds):
    assert improved(measured(*parts)).holds is holds


def test_a_benchmark_of_one_split_counts_beside_one_that_has_them_all():
    """MME is scored over all its subtasks; the other has no score but its split's."""
    parts = [{**row, "task": "mme"} for row in difference("f1", 0.1, 0.05, 0.2)]
    parts += [{**row, "split": "position"} for row in parts]
    alone = [{**row, "split": "random"} for row in difference("f1", -0.1, -0.2, -0.05)]
    assert improved(measured(parts)).holds is True
    assert improved(measured(parts, alone)).holds is False


def test_figures_show_a_benchmark_with_the_interval_of_its_difference():
    """As far from the score of off: .5 and its interval become .8 and .7 to .9."""
    part = {"task": "t", "metric": "f1"}
    scores = [
        {**part, "split": split, "arm": arm, "of": "score", "value": value}
        for split in ("all", "random")
        for arm, value in (("off", 0.3), ("VAR", 0.8))
    ]
    other = [{**row, "metric": "yes ratio"} for row in scores]
    shown = telling_scores(measured(scores, other, difference("f1", 0.5, 0.4, 0.6))).rows
    assert [row["arm"] for row in shown] == ["off", "VAR"]
    assert "low" not in shown[0]
    assert (shown[1]["low"], shown[1]["high"]) == pytest.approx((0.7, 0.9))
    plain = measured(rows([1.0]))
    assert telling_scores(plain) is plain


def test_saved_and_loaded(tmp_path):
    image = Image.new("RGB", (8, 6), "red")
    found = measured(rows(VALUES, hidden="a, b\nc", layer=3))
    found = Measurements(found.name, found.rows, {"model": "m", "seed": 0}, {0: image})
    found.save(tmp_path)
    again = Measurements.load(tmp_path, found.name)
    assert again.rows == found.rows
    assert again.about == found.about
    assert again.images[0].tobytes() == image.tobytes()
    with (tmp_path / "A.fig3b.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 40
    with pytest.raises(vi.ResultError, match=r"B\.fig1"):
        Measurements.load(tmp_path, "B.fig1")


def test_a_frame_has_one_line_a_measurement():
    frame = measured(rows(VALUES, hidden="a")).to_pandas()
    assert list(frame.columns) == ["case", "hidden", "value"]
    assert len(frame) == 40


def test_its_line_shows_no_array():
    assert repr(measured(rows(VALUES))) == "Measurements(A.fig3b, 40 rows, 40 cases)"
