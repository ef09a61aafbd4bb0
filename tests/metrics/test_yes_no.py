"""Reading yes and no as MME does."""

import pytest

from vsink_interp.metrics import yes_or_no


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Yes", "yes"),
        ("yes, it is.", "yes"),
        ("  NO.", "no"),
        ("a yes", "other"),  # its fourth letter is not the end of "yes"
        ("I think not", "other"),
        ("", "other"),
        ("not sure", "no"),  # by the letter
    ],
)
def test_the_first_four_letters_decide(text, says):
    assert yes_or_no(text) == says
