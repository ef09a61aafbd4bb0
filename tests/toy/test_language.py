"""Captions parse back, and every answer follows from the objects by an independent reading."""

from functools import cache

import numpy as np
import pytest

from vsink_interp.toy import scene
from vsink_interp.toy.language import (
    COLORS,
    KINDS,
    NUMBERS,
    SHAPES,
    YES_NO_KINDS,
    object_f1,
    parse_objects,
)

SEEDS = range(160)
drawn = cache(scene)


@pytest.mark.parametrize("seed", range(40))
def test_captions_parse_back(seed):
    one = drawn(seed)
    assert parse_objects(one.caption) == tuple((o.color, o.shape) for o in one.objects)
    assert one.caption.endswith(f" on {one.background}.")
    order = [(o.row, o.column) for o in one.objects]
    assert order == sorted(order)


def _recompute(one, question):
    """The answer read from the words of the question and the list of objects alone."""
    words = question.text.rstrip("?").split()
    colors = [word for word in words if word in COLORS]
    shapes = [word for word in words if word in SHAPES]
    table = [(o.color, o.shape, o.centre) for o in one.objects]
    named = {(c, s): at for c, s, at in table}
    match question.kind:
        case "object":
            return "yes" if (colors[0], shapes[0]) in named else "no"
        case "color":
            return "yes" if [c for c, s, _ in table if s == shapes[0]] == colors else "no"
        case "count":
            said = next(NUMBERS.index(word) for word in words if word in NUMBERS)
            return "yes" if said == len(table) else "no"
        case "relation":
            first, second = (named[pair][0] for pair in zip(colors, shapes, strict=True))
            return "yes" if (first < second) == ("left" in words) else "no"
        case "what-color":
            (color,) = (c for c, s, _ in table if s == shapes[0])
            return color
        case "what-shape":
            (shape,) = (s for c, s, _ in table if c == colors[0])
            return shape
        case "where":
            x, y = named[colors[0], shapes[0]]
            row = ("top", "middle", "bottom")[int(y / 64 * 3)]
            return f"{row} {('left', 'center', 'right')[int(x / 64 * 3)]}"
        case "how-many":
            return NUMBERS[len(table)]
        case "background":
            return one.caption.rstrip(".").split()[-1]


def test_answers_are_true():
    asked = [(drawn(seed), q) for seed in SEEDS for q in drawn(seed).questions]
    for one, question in asked:
        assert question.answer == _recompute(one, question), (one.caption, question)
    assert {question.kind for _, question in asked} == set(KINDS)


@pytest.mark.parametrize("kind", YES_NO_KINDS)
def test_yes_and_no_are_balanced(kind):
    answers = [q.answer for seed in SEEDS for q in drawn(seed).questions if q.kind == kind]
    assert len(answers) > 100
    assert np.mean([answer == "yes" for answer in answers]) == pytest.approx(0.5, abs=0.15)


def test_object_f1():
    assert object_f1(parse_objects("a red circle"), [("red", "circle")]) == 1.0
    assert object_f1([], []) == 1.0
    assert object_f1([], [("red", "circle")]) == 0.0
    half = object_f1([("red", "circle"), ("red", "circle")], [("red", "circle"), ("red", "cross")])
    assert half == pytest.approx(0.5)
    assert parse_objects("A Red circle, a blue. circle") == (("red", "circle"),)
