"""VQA's normalisation and accuracy, by hand from its evaluation script."""

import pytest

from vsink_interp import InputError
from vsink_interp.metrics import group_accuracy, normalise_answer, vqa_accuracy


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("The Dog.", "dog"),
        ("two dogs", "2 dogs"),
        ("None", "0"),
        ("1,000", "1000"),
        ("3.5 m.", "3.5 m"),
        ("black-and-white", "black and white"),
        ("black - white", "black  white".replace("  ", " ")),
        ("dont know!", "don't know"),
        ("yes\n", "yes"),
    ],
)
def test_normalisation(text, want):
    assert normalise_answer(text) == want


def test_accuracy_leaves_each_person_out_in_turn():
    people = ["red"] * 3 + ["blue"] * 7
    # For the three that said red two others did: 2/3; for the seven, three did: 1.
    assert vqa_accuracy("Red.", people) == pytest.approx((3 * 2 / 3 + 7) / 10)
    assert vqa_accuracy("green", people) == 0.0
    assert vqa_accuracy("blue", people) == 1.0
    assert vqa_accuracy("a cat", ["cat"]) == 1.0


def test_groups_need_all_of_their_questions():
    assert group_accuracy([True, True, True, False], ["a", "a", "b", "b"]) == 0.5


def test_bad_input():
    with pytest.raises(InputError, match="there are none"):
        vqa_accuracy("red", [])
    with pytest.raises(InputError, match="one group each"):
        group_accuracy([True], [])
