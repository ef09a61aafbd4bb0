"""Edits of the neurons of an MLP."""

import torch
from torch import Tensor


def move_neurons(
    value: Tensor, neurons: list[int], to: int, scale: float, signed: bool, spare: int
) -> Tensor:
    """Neurons with their peak over patches at the patch ``to``, and zero elsewhere.

    ``value`` is image patch d_mlp. The peak is the highest value, or with ``signed`` the one
    farthest from zero; the first ``spare`` patches keep theirs.
    """
    chosen = value[..., neurons]
    peak = chosen.amax(1)
    if signed:
        low = chosen.amin(1)
        peak = torch.where(low.abs() > peak.abs(), low, peak)
    moved = value.clone()
    moved[:, spare:, neurons] = 0.0
    moved[:, to, neurons] = scale * peak
    return moved
