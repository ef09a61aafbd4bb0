"""Which tokens a row may attend to, by the masks of a model."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Sight: TypeAlias = Literal[
    "causal", "image blocks", "windowed image blocks", "prefix", "cross-attention"
]
"""What a row may attend to besides the tokens before it: nothing, the rest of its own image, that
in layers with windows alone, the whole prompt, or images that have no tokens in the prompt."""

Window: TypeAlias = int | Literal["any"] | None
"""How many tokens a row sees back from itself, itself included: as many, all, or what any layer of
a model lets it see."""


def widest(sight: Sight, windows: Sequence[int | None]) -> tuple[int | None, ...]:
    """The windows of layers of which one or the other sees all that any layer sees."""
    wide = max((window for window in windows if window is not None), default=None)
    if None not in windows:
        return (wide,)
    return (None, wide) if sight == "windowed image blocks" else (None,)


def seen_from(
    rows: Int[Tensor, " row"],
    image_index: Int[Tensor, "batch token"],
    prompt_length: int,
    sight: Sight,
    windows: Sequence[int | None],
) -> Bool[Tensor, "#batch row token"]:
    """Which tokens some rows may attend to in layers with one of these windows, padding not looked
    at.

    **Arguments:**

    - `image_index`, `prompt_length`, `sight`: as `TokenLayout` has them.
    - `windows`: how many tokens a row sees back from itself, itself included; None for all.
    """
    places = torch.arange(image_index.shape[1], device=image_index.device)
    before = (places <= rows[:, None])[None]
    same = image_index[:, rows, None] == image_index[:, None]
    own = same & (image_index >= 0)[:, None]
    found = torch.zeros_like(before)
    for window in windows:
        blocks = sight == "image blocks" or (
            sight == "windowed image blocks" and window is not None
        )
        seen = before | own if blocks else before
        if window is not None:
            seen = seen & (places > rows[:, None] - window)
        found = found | seen
    if sight == "prefix":  # whose prompt no window cuts
        found = found | ((rows[:, None] < prompt_length) & (places < prompt_length))
    return found
