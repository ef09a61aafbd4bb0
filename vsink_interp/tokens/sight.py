"""Which tokens a row may attend to, by the masks of a model."""

from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Sight: TypeAlias = Literal["causal", "image blocks", "prefix", "cross-attention"]
"""What a row may attend to besides the tokens before it: nothing, the rest of its own image, the
whole prompt, or images that have no tokens in the prompt."""


def seen_from(
    rows: Int[Tensor, " row"],
    image_index: Int[Tensor, "batch token"],
    prompt_length: int,
    sight: Sight,
    window: int | None,
) -> Bool[Tensor, "#batch row token"]:
    """Which tokens some rows may attend to, padding not looked at.

    **Arguments:**

    - `image_index`, `prompt_length`, `sight`: as `TokenLayout` has them.
    - `window`: how many tokens a row sees back from itself, itself included; None for all.
    """
    places = torch.arange(image_index.shape[1], device=image_index.device)
    seen = (places <= rows[:, None])[None]
    if sight == "image blocks":
        same = image_index[:, rows, None] == image_index[:, None]
        seen = seen | (same & (image_index >= 0)[:, None])
    if window is not None:
        seen = seen & (places > rows[:, None] - window)
    if sight == "prefix":  # whose prompt no window cuts
        seen = seen | ((rows[:, None] < prompt_length) & (places < prompt_length))
    return seen
