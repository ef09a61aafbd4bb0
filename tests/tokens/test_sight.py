"""Which tokens a row sees, against loops over rows and tokens."""

from dataclasses import replace
from typing import get_args

import pytest
import torch

import vsink_interp as vi
from vsink_interp.tokens.groups import SEGMENTS
from vsink_interp.tokens.layout import CODE
from vsink_interp.tokens.sight import Sight

WORDS = ("ppbiiqiiqg", "biiiiqqqqg")
IMAGES = ("   00 11  ", " 0000     ")
WINDOWS = (3, None, 5)
LETTERS = {name[0]: CODE[name] for name in SEGMENTS} | {"p": 0}
LAYOUT = vi.TokenLayout(
    torch.tensor([[LETTERS[letter] for letter in words] for words in WORDS]),
    torch.tensor([[int(c) if c.isdigit() else -1 for c in images] for images in IMAGES]),
    torch.zeros(2, 10, dtype=torch.bool),
    ((vi.ImageSpan((1, 2)), vi.ImageSpan((1, 2))), (vi.ImageSpan((2, 2)),)),
    9,
)


def sees(sample, row, token, sight, window):
    """Whether a row sees a token in a layer with this window."""
    words, images = WORDS[sample], IMAGES[sample]
    if "p" in (words[row], words[token]):
        return False
    if sight == "prefix" and "g" not in (words[row], words[token]):
        return True
    if window is not None and row - token >= window:
        return False
    whole = sight == "image blocks" or (sight == "windowed image blocks" and window is not None)
    return token <= row or (whole and images[row] == images[token] != " ")


def seen(sight, window):
    """Sample x row x token."""
    return torch.tensor([[[sees(sample, row, token, sight, window) for token in range(10)]
                          for row in range(10)] for sample in range(2)])  # fmt: skip


@pytest.mark.parametrize("windows", [WINDOWS, (), (3, 5), (None, None)])
@pytest.mark.parametrize("sight", get_args(Sight))
def test_what_a_row_sees(sight, windows):
    layout, each = replace(LAYOUT, sight=sight, windows=windows), dict.fromkeys(windows or (None,))
    kinds = {window: seen(sight, window) for window in each}
    some = torch.stack(list(kinds.values())).any(0)
    for window, wanted in {**kinds, "any": some}.items():
        got = layout.visible(range(10), window)
        assert torch.equal(got, wanted), window
        assert torch.equal(layout.visible([8, 3], window), wanted[:, [8, 3]])
        for group in ("bos", "image[1]", "image", "query", "generated"):
            keys = layout.mask(group)
            assert torch.equal(layout.reached(keys, window), (wanted & keys[:, None]).any(-1))


def test_within_windows_the_first_token_may_see_what_no_later_one_does():
    layout = replace(LAYOUT, windows=(2, 2))
    layout.check_reach("image[1]", "generated", first_token=True)
    with pytest.raises(vi.LayoutError, match="nothing flows there"):
        layout.check_reach("image[1]", "generated")
