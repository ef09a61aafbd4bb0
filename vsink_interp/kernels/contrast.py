"""Contrastive decoding: the difference of two predictions, and noise for the distorted image."""

import math

import torch
from torch import Tensor


def contrast(logits: Tensor, other: Tensor, alpha: float, beta: float) -> Tensor:
    """Raise tokens that the first prediction finds likelier than the second, if plausible.

    ``(1 + alpha) logits - alpha other``, as Leng et al. (2024) define p_vcd and Wang et al. (2024)
    use it; a token that the first prediction gives less than ``beta`` times its best token's
    probability is cut to minus infinity (their adaptive plausibility constraint). ``beta = 0``
    cuts nothing. Logits stand for log probabilities: they differ by a constant of the row.

    Both are batch query vocab.
    """
    first, second = logits.float(), other.float()
    new = (1 + alpha) * first - alpha * second
    if beta > 0:
        least = first.amax(-1, keepdim=True) + math.log(beta)
        new = new.masked_fill(first < least, -math.inf)
    return new.to(logits.dtype)


def diffuse(pixels: Tensor, noise: Tensor, step: int) -> Tensor:
    """Pixels after ``step`` of 1,000 steps of a diffusion: VCD's distorted image.

    ``sqrt(a) pixels + sqrt(1 - a) noise``, a the product of 1 - b over the steps 0 to ``step``, and
    b rising from 1e-5 to 5e-3 along a sigmoid from -6 to 6, as in the released code of Leng et al.
    (2024). ``pixels`` are normalised as the vision encoder takes them, ``noise`` is standard
    normal.
    """
    rates = torch.sigmoid(torch.linspace(-6, 6, 1000, dtype=torch.float64)) * (5e-3 - 1e-5) + 1e-5
    kept = float(torch.cumprod(1 - rates, 0)[step])
    return math.sqrt(kept) * pixels + math.sqrt(1 - kept) * noise
