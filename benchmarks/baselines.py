"""What others do: eager attention, and the released VAR program with its loop over heads."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import repeat_kv

import vsink_interp as vi

P_KEPT, RHO, FLOOR = 0.4, 0.5, 0.2


def full_pattern(
    module: torch.nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float
) -> Tensor:
    """The whole pattern, as eager attention computes it."""
    scores = query @ repeat_kv(key, module.num_key_value_groups).transpose(2, 3) * scaling
    scores = scores if mask is None else scores + mask
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)


def head_loop(pattern: Tensor, sink: Tensor, image: Tensor, rows: Tensor) -> Tensor:
    """VAR head by head over row indices, with host reads, as the released program works."""
    visual = (sink & image)[0].nonzero().flatten()
    others = (sink & ~image)[0].nonzero().flatten()
    if not len(visual):
        return pattern
    span = image[0].nonzero().flatten()
    first, last = int(span[0]), int(span[-1]) + 1
    image = pattern[..., first:last]
    portion = pattern[..., visual].sum(-1) / (image + 1e-6).sum(-1)
    chosen = (portion <= 1 - RHO) & (image.sum(-1) >= FLOOR) & rows[:, None]
    for head in range(pattern.shape[1]):
        picked = chosen[0, head].nonzero().flatten()
        if not len(picked):
            continue
        old = pattern[0, head, picked].clone()
        both = torch.cat([visual, others])
        budget = (1 - P_KEPT) * (old[:, visual].sum(-1) + old[:, others].sum(-1))
        weights = old.clone()
        weights[:, visual] = 0
        weights = weights[:, first:last]
        new = old.clone()
        new[:, both] = P_KEPT * old[:, both]
        new[:, first:last] += budget[:, None] * weights / weights.sum(-1, keepdim=True)
        pattern[0, head, picked] = new
    return pattern


def vectorised(pattern: Tensor, sink: Tensor, image: Tensor, rows: Tensor) -> Tensor:
    """VAR on the whole pattern at once."""
    vs, fresh = (x[:, None, None].to(pattern.dtype) for x in (sink & image, image & ~sink))
    drop = sink[:, None, None].to(pattern.dtype)
    in_sinks, in_fresh, in_all = ((pattern * x).sum(-1, keepdim=True) for x in (vs, fresh, drop))
    mass = in_sinks + in_fresh
    chosen = (in_sinks <= (1 - RHO) * mass) & (mass >= FLOOR) & rows[:, None, :, None]
    gain = (1 - P_KEPT) * in_all / in_fresh.clamp_min(1e-30)
    new = pattern * (1 + gain * fresh - (1 - P_KEPT) * drop)
    return torch.where(chosen & (in_fresh > 0) & vs.any(-1, keepdim=True), new, pattern)


@contextmanager
def patched(lmm: vi.LMM, encoding: vi.Encoding, edit: Callable[..., Tensor]) -> Iterator[None]:
    """The model with eager attention and VAR written into it; sinks are given, not looked for."""
    layers, config = lmm.hooked.layers, lmm.hooked.layers[0].self_attn.config
    image, length = encoding.layout.mask("image").to(lmm.device), encoding.layout.length
    last_image = int(image[0].nonzero()[-1])
    probe = vi.probes.SinkValue()
    phi = lmm.run(encoding, graph=probe)[probe].values.to(lmm.device)

    def attention(module, query, key, value, attention_mask, scaling, **_):
        pattern = full_pattern(module, query, key, attention_mask, scaling)
        if module.layer_idx < len(layers) - 1:
            keys, extra = key.shape[2], key.shape[2] - length
            pad = torch.zeros(1, max(extra, 0), dtype=torch.bool, device=key.device)
            sink = torch.cat([phi[module.layer_idx] >= lmm.sinks.tau, pad], 1)[:, :keys]
            here = torch.cat([image, pad], 1)[:, :keys]
            positions = torch.arange(keys - query.shape[2], keys, device=key.device)[None]
            rows = positions > last_image
            pattern = edit(pattern, sink, here, rows)
        z = pattern @ repeat_kv(value, module.num_key_value_groups)
        return z.transpose(1, 2).contiguous(), pattern

    before = config._attn_implementation
    ALL_ATTENTION_FUNCTIONS.register("benchmark", attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register("benchmark", eager_mask)
    config._attn_implementation = "benchmark"
    try:
        yield
    finally:
        config._attn_implementation = before
