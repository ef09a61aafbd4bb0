"""What some models do to their logits."""

import torch
from torch import Tensor


def softcapped(logits: Tensor, cap: "float | None") -> Tensor:
    """Logits of any shape, pressed smoothly between ``-cap`` and ``cap``; None is no cap."""
    return logits if cap is None else torch.tanh(logits / cap) * cap
