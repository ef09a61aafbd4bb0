"""MME by hand."""

import pytest

from vsink_interp import InputError
from vsink_interp.metrics import MmeAnswer, score_mme

ANSWERS = [
    MmeAnswer("color", "a.jpg", "Yes", "yes"),
    MmeAnswer("color", "a.jpg", "No", "no"),
    MmeAnswer("color", "b.jpg", "Yes", "yes"),
    MmeAnswer("color", "b.jpg", "Yes", "no"),
    MmeAnswer("code_reasoning", "c.jpg", "It may be", "yes"),
    MmeAnswer("code_reasoning", "c.jpg", "no", "no"),
]


def test_scores_by_hand():
    found = score_mme(ANSWERS)
    color, code = found.subtasks["color"], found.subtasks["code_reasoning"]
    assert (color.accuracy, color.accuracy_plus, color.score) == (0.75, 0.5, 125.0)
    assert (code.accuracy, code.accuracy_plus, code.other, code.questions) == (0.5, 0.0, 1, 2)
    assert (found.perception, found.cognition, found.total()) == (125.0, 50.0, 175.0)
    assert list(found.subtasks) == ["color", "code_reasoning"]


def test_lmms_eval_reads_single_letters():
    pair = [MmeAnswer("count", "a", "y", "yes"), MmeAnswer("count", "a", "n", "no")]
    assert score_mme(pair).total() == 0.0
    assert score_mme(pair, "lmms-eval-mme").total() == 200.0


def test_images_have_two_questions():
    with pytest.raises(InputError, match=r"'a.jpg' has 1 answers; MME asks two"):
        score_mme(ANSWERS[:1])
    with pytest.raises(InputError, match="needs answers"):
        score_mme([])
