"""How much attention writes along a direction of the residual stream, by head and group of keys."""

import torch
from torch import Tensor


def attributed(
    pattern: Tensor, value: Tensor, weight: Tensor, direction: Tensor, groups: Tensor
) -> Tensor:
    """What each head brings from each group of keys, along a direction of the residual stream.

    For head h, row q and group G it is the sum over keys k in G of ``A[q, k] * v[k] W_O[h] . d``.
    ``pattern`` is batch head query key, ``value`` batch kv_head key d_head, ``weight`` head d_head
    d_model (W_O split by head), ``direction`` d_model, ``groups`` batch key group; the result is
    batch head query group, in fp32.
    """
    heads, kv_heads = pattern.shape[1], value.shape[1]
    toward = (weight.float() @ direction.to(weight.device).float()).view(
        kv_heads, -1, weight.shape[1]
    )
    per_key = torch.einsum("bnkd,ngd->bngk", value.float(), toward).reshape(len(pattern), heads, -1)
    return pattern.float() @ (per_key[..., None] * groups[:, None].float())
