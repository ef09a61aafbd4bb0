"""Reading yes and no by each rule: hand-worked cases."""

import pytest

from vsink_interp import NotationError
from vsink_interp.metrics import RULES, read_answer

# text, then what pope, mme, lmms-eval-pope, lmms-eval-mme and strict read; worked by hand from the
# scripts of POPE, MME and lmms-eval 0.7.3.
CASES = [
    ("yes", "yes", "yes", "yes", "yes", "yes"),
    ("Yes.", "yes", "yes", "other", "yes", "yes"),
    (" No ", "no", "no", "no", "no", "no"),
    ("NO.", "yes", "no", "other", "no", "no"),  # POPE knows No, no and not
    ("No, it is not.", "no", "no", "other", "no", "no"),
    ("There is no dog", "no", "other", "other", "other", "other"),
    ("Yes. But no.", "yes", "yes", "other", "yes", "other"),  # only the first sentence
    ("not sure", "no", "no", "other", "no", "other"),
    ("a yes", "yes", "other", "other", "other", "other"),
    ("a no", "no", "no", "other", "no", "other"),
    ("Y", "yes", "other", "other", "yes", "other"),
    ("n.", "yes", "other", "other", "no", "other"),
    ("", "yes", "other", "other", "other", "other"),
    ("Noodles", "yes", "no", "other", "no", "other"),
    ("no\n", "yes", "no", "no", "no", "no"),  # POPE splits at spaces alone
    ("Yes, there is one.", "yes", "yes", "other", "yes", "yes"),
    ("yes or no", "no", "yes", "other", "yes", "other"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case[0]))
def test_each_rule_by_hand(case):
    text, *want = case
    rules = ("pope", "mme", "lmms-eval-pope", "lmms-eval-mme", "strict")
    assert [read_answer(text, rule) for rule in rules] == want


def test_an_unknown_rule_lists_the_rules():
    with pytest.raises(NotationError, match="lmms-eval-pope"):
        read_answer("yes", "vlmevalkit")
    assert len(RULES) == 5
