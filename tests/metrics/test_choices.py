"""Reading letters by hand, and by scripts that were read and written out here."""

import pytest

from vsink_interp import InputError, NotationError
from vsink_interp.metrics import read_choice

OPTIONS = ("Open", "Closed")
SAID = (
    "A",
    "(b)",
    "b.",
    "Open",
    "open.",
    "The answer is: B",
    "The answer is (b).",
    "A. Open",
    "B) it",
    "Closer",
    "",
    "both",
    "C",
)


@pytest.mark.parametrize(
    ("rule", "read"),
    [
        ("cambrian-mmvp", "a b b a a - b - - - - - -"),
        ("cambrian-cv-bench", "a b b - - - b a b - - b -"),
        ("lmms-eval-mmvp", "a b b - - b b a b - - b -"),
        ("lmms-eval-cv-bench", "a b b - - - - a b - - b -"),
        ("strict", "a b b a a - - a b - - - -"),
    ],
)
def test_each_rule(rule, read):
    found = [read_choice(text, OPTIONS, rule) for text in SAID]
    assert found == [letter if letter != "-" else "other" for letter in read.split()]


def test_no_letter_beyond_the_options():
    assert read_choice("C", ("x", "y", "z"), "strict") == "c"
    assert read_choice("C", ("x", "y"), "strict") == "other"
    assert read_choice("ab", ("x", "y"), "cambrian-mmvp") == "other"


def test_bad_input():
    with pytest.raises(NotationError, match="strict"):
        read_choice("A", OPTIONS, "loose")
    with pytest.raises(InputError, match="two options"):
        read_choice("A", ("x",), "strict")
