"""POPE by hand."""

import pytest

from vsink_interp import InputError
from vsink_interp.metrics import score_pope

ANSWERS = ["Yes.", "No", "There is no dog.", "yes", "Perhaps", "perhaps", "no"]
LABELS = ["yes", "no", "yes", "no", "yes", "no", "yes"]


def test_the_official_rule():
    """Read as y n n y y y n: three right of seven."""
    found = score_pope(ANSWERS, LABELS)
    assert (found.tp, found.fp, found.tn, found.fn, found.other) == (2, 2, 1, 2, 0)
    assert found.accuracy == 3 / 7
    assert found.precision == found.recall == found.f1 == 1 / 2
    assert found.yes_ratio == 4 / 7


def test_what_a_strict_rule_cannot_read_is_wrong_and_counted():
    """Read as y n o y o o n."""
    found = score_pope(ANSWERS, LABELS, "strict")
    assert (found.tp, found.fp, found.tn, found.fn) == (1, 1, 1, 1)
    assert (found.other_yes, found.other_no, found.total) == (2, 1, 7)
    assert found.accuracy == 2 / 7
    assert found.precision == 1 / 2
    assert found.recall == 1 / 4
    assert found.yes_ratio == 2 / 7


def test_lmms_eval_s_way():
    """`Yes.` is neither; recall leaves it out; the yes ratio is that of the labels."""
    found = score_pope(ANSWERS, LABELS, "lmms-eval-pope")
    assert (found.tp, found.fp, found.tn, found.fn) == (0, 1, 1, 1)
    assert found.recall == 0.0
    assert found.yes_ratio == 4 / 7
    assert score_pope(["yes", "Yes."], ["yes", "yes"], "lmms-eval-pope").recall == 1.0


def test_nothing_said_with_yes_has_no_precision():
    found = score_pope(["no", "no"], ["yes", "no"])
    assert found.precision == found.recall == found.f1 == 0.0


@pytest.mark.parametrize(
    ("answers", "labels"), [([], []), (["yes"], ["yes", "no"]), (["yes"], ["maybe"])]
)
def test_bad_input(answers, labels):
    with pytest.raises(InputError, match="label"):
        score_pope(answers, labels)
