"""Object F1 against the toy scenes' own, and by hand."""

import pytest
from hypothesis import given, strategies as st

from vsink_interp.metrics import ObjectScore, content_words, score_objects
from vsink_interp.toy.language import object_f1

objects = st.lists(st.tuples(st.sampled_from("rgb"), st.sampled_from("xyz")), max_size=6)


@given(objects, objects)
def test_f1_is_the_toy_language_s(candidate, reference):
    assert score_objects(candidate, reference).f1 == pytest.approx(object_f1(candidate, reference))


@given(objects, objects)
def test_counts_add_up_and_roles_swap(candidate, reference):
    score, swapped = score_objects(candidate, reference), score_objects(reference, candidate)
    assert score.matched + score.invented == len(candidate)
    assert score.matched + score.missed == len(reference)
    assert (score.precision, score.recall) == (swapped.recall, swapped.precision)


def test_by_hand():
    score = score_objects(["cup", "cup", "dog"], ["cup", "dog", "dog", "tree"])
    assert score == ObjectScore(matched=2, invented=1, missed=2)
    assert (score.precision, score.recall) == (2 / 3, 2 / 4)
    assert score.f1 == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))


@pytest.mark.parametrize(
    ("candidate", "reference", "expected"),
    [([], [], (1, 1, 1)), ([], ["a"], (0, 0, 0)), (["a"], [], (0, 0, 0))],
)
def test_of_nothing(candidate, reference, expected):
    score = score_objects(candidate, reference)
    assert (score.precision, score.recall, score.f1) == expected


def test_content_words():
    text = "The dog's bowl, and THE second dog's bowl are on a red-brown mat."
    assert content_words(text) == ("dog's", "bowl", "second", "red-brown", "mat")
    assert content_words("it is of the ...") == ()
