"""What attention writes along a direction of the residual stream, by head and group of keys."""

from torch import Tensor


def output_along(weight: Tensor, direction: Tensor) -> Tensor:
    """What each head's output weights write along a direction, in fp32.

    ``weight`` is head d_head d_model (W_O split by head), ``direction`` d_model; the result is head
    d_head.
    """
    return weight.float() @ direction.to(weight.device).float()


def value_along(value: Tensor, toward: Tensor) -> Tensor:
    """What each head would write of each key along a direction, in fp32.

    ``value`` is batch kv_head key d_head, ``toward`` that of `output_along`; the result is batch
    head key.
    """
    grouped = toward.view(value.shape[1], -1, value.shape[-1])
    return (grouped @ value.float().transpose(2, 3)).flatten(1, 2)


def attributed(pattern: Tensor, along: Tensor, groups: Tensor) -> Tensor:
    """What each head brings from each group of keys, along a direction of the residual stream.

    For head h, row q and group G it is the sum over keys k in G of ``A[q, k] * v[k] W_O[h] . d``.
    ``pattern`` is batch head query key, ``along`` that of `value_along`, ``groups`` batch key
    group; the result is batch head query group, in fp32.
    """
    return pattern.float() @ (along[..., None] * groups[:, None])
