"""The arithmetic of probes: shares of attention, ratios and contributions."""

import torch
from torch import Tensor


def group_mass(pattern: Tensor, groups: Tensor) -> Tensor:
    """The share of each row's attention that falls on each group of keys, from 0 to 1.

    ``pattern`` is batch head query key, ``groups`` batch key group; the result is batch head
    query group. Kaduri et al. (2025), equation B-5 of docs/papers.md, before the mean over heads.
    """
    batch, heads, rows, keys = pattern.shape
    if groups.dtype != pattern.dtype:
        groups = groups.to(pattern.dtype)
    mass = torch.bmm(pattern.reshape(batch, -1, keys), groups)
    return mass.view(batch, heads, rows, -1)


def non_sink_ratio(pattern: Tensor, sink: Tensor, image: Tensor) -> Tensor:
    """The visual non-sink ratio r: of a row's attention to the image, the share beside its sinks.

    ``pattern`` is batch head query key, ``sink`` and ``image`` batch key; the result is batch
    head query, NaN where a row gives the image nothing. Kang et al. (2025), equation (A-5).
    """
    batch, heads, rows, keys = pattern.shape
    columns = torch.stack([image > sink, image], -1).to(pattern.dtype)
    fresh, mass = (pattern.reshape(batch, -1, keys) @ columns).unbind(-1)
    return (fresh / mass).view(batch, heads, rows)


def output_gram(weight: Tensor) -> Tensor:
    """The inner products ``W W^T`` of each head's output weights, in fp32 or finer.

    ``weight`` is head d_head d_model (W_O split by head); the result is head d_head d_head.
    """
    exact = weight.to(torch.promote_types(weight.dtype, torch.float32))
    return exact @ exact.transpose(1, 2)


def value_norms(value: Tensor, gram: Tensor) -> Tensor:
    """The norm of what each head would write of each key: ``v W_O``.

    ``value`` is batch kv_head key d_head, ``gram`` that of `output_gram`; the result is batch head
    key. The norm of ``v W`` is the root of ``v W W^T v^T``: nothing as wide as the model is made.
    """
    batch, groups, keys, width = value.shape
    columns = value.to(gram.dtype).permute(1, 3, 0, 2).flatten(2)
    turned = gram.reshape(groups, -1, width) @ columns
    squares = (turned.view(groups, -1, *columns.shape[1:]) * columns[:, None]).sum(2)
    return squares.clamp_min(0).sqrt().view(-1, batch, keys).transpose(0, 1)


def contribution(pattern: Tensor, norms: Tensor) -> Tensor:
    """How much each key adds to each row: the norm of ``alpha x W_OV``, averaged over heads.

    ``pattern`` is batch head query key, ``norms`` that of `value_norms`; the result is batch query
    key. Kang et al. (2025), figure 3c.
    """
    return (pattern * norms[:, :, None]).mean(1)


def head_result(z: Tensor, weight: Tensor) -> Tensor:
    """What each head adds to the residual stream.

    ``z`` is batch query head d_head, ``weight`` head d_head d_model; the result is batch query
    head d_model.
    """
    return torch.einsum("bqhd,hdm->bqhm", z, weight)
