"""What the core must equal, written again from the papers and from plain transformers.

Nothing here uses the package's kernels, edits or engine: attention is transformers' own eager
form with keys repeated, over the whole sequence and without a cache.
"""

from collections.abc import Callable
from contextlib import contextmanager

import numpy as np
import torch
from transformers.models.llama import modeling_llama

import vsink_interp as vi


def var_paper(row, sink, image, p, rho, least):
    """Kang et al.'s equations (A-5) and (A-6) for one row, in float64."""
    mass = sum(row[j] for j in range(len(row)) if image[j])
    fresh = sum(row[j] for j in range(len(row)) if image[j] and not sink[j])
    if fresh == 0 or mass < least or fresh / mass < rho:
        return row.copy()
    budget = p * sum(row[j] for j in range(len(row)) if sink[j])
    new = row.copy()
    for j in range(len(row)):
        if sink[j]:
            new[j] = (1 - p) * row[j]
        elif image[j]:
            new[j] = row[j] + budget * row[j] / fresh
    return new


def var_released(row, sink, image, p, rho, least):
    """Their program for one row: p is kept, rho bounds the sink ratio."""
    visual = sink & image
    if not visual.any():
        return row.copy()
    seen = row[image]
    portion = row[visual].sum() / (seen + 1e-6).sum()
    if not (portion <= rho and seen.sum() >= least):
        return row.copy()
    weight = np.where(visual, 0.0, row)[image]
    if weight.sum() == 0:  # theirs divides by zero here
        return row.copy()
    new = row.copy()
    new[sink] = p * row[sink]
    budget = (1 - p) * (row[visual].sum() + row[sink & ~image].sum())
    new[image] += budget * weight / weight.sum()
    return new


VAR = {"paper": var_paper, "released-code": var_released}


def phi(resid: torch.Tensor, dims: tuple[int, ...]) -> np.ndarray:
    x = resid.double().numpy()
    return np.abs(x[..., list(dims)]).max(-1) / np.sqrt(np.maximum((x**2).mean(-1), 1e-300))


OnScores = Callable[[int, torch.Tensor], torch.Tensor]
OnPattern = Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor]


@contextmanager
def eager_attention(hf_model, scores: OnScores | None = None, pattern: OnPattern | None = None):
    """transformers' eager attention, restated, with a word in between.

    `scores(layer, scores)` sees masked scores; `pattern(layer, pattern, resid)` sees the pattern
    and the residual stream that enters the layer.
    """
    entering: dict[int, torch.Tensor] = {}

    def attention(module, query, key, value, attention_mask, scaling, **_):
        layer, group = module.layer_idx, query.shape[1] // key.shape[1]
        keys, values = (x.repeat_interleave(group, 1) for x in (key, value))
        table = query @ keys.transpose(2, 3) * scaling + attention_mask
        if scores:
            table = scores(layer, table)
        weights = torch.softmax(table, -1, dtype=torch.float32).to(query.dtype)
        if pattern:
            weights = pattern(layer, weights, entering[layer])
        return (weights @ values).transpose(1, 2).contiguous(), weights

    layers = hf_model.model.language_model.layers
    hooks = [
        block.register_forward_pre_hook(
            lambda _, args, i=i: entering.__setitem__(i, args[0].detach().clone())
        )
        for i, block in enumerate(layers)
    ]
    own = modeling_llama.eager_attention_forward
    modeling_llama.eager_attention_forward = attention
    try:
        yield
    finally:
        modeling_llama.eager_attention_forward = own
        for hook in hooks:
            hook.remove()


def forward(hf_model, inputs, ids=None, **edits) -> torch.Tensor:
    """Logits of one pass over prompt and answer, without a cache; the model must be eager."""
    assert hf_model.config.get_text_config()._attn_implementation == "eager"
    inputs = dict(inputs)
    if ids is not None:
        new = ids.shape[1] - inputs["input_ids"].shape[1]
        ones = inputs["attention_mask"].new_ones(ids.shape[0], new)
        inputs["attention_mask"] = torch.cat([inputs["attention_mask"], ones], 1)
        inputs["input_ids"] = ids
    positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp_min(0)
    with torch.no_grad(), eager_attention(hf_model, **edits):
        return hf_model(**inputs, position_ids=positions, use_cache=False).logits


def answer(hf_model, inputs, n: int, **edits) -> tuple[torch.Tensor, torch.Tensor]:
    """Greedy ids, no special ones, and the logits that predicted them: one whole pass per token."""
    ids, rows = inputs["input_ids"], []
    for _ in range(n):
        rows.append(forward(hf_model, inputs, ids, **edits)[:, -1])
        likeliest = rows[-1].index_fill(1, torch.arange(5), -torch.inf).argmax(-1, keepdim=True)
        ids = torch.cat([ids, likeliest], 1)
    return ids, torch.stack(rows, 1)


SEGMENT = {
    name: code for code, name in enumerate(("bos", "system", "image", "query", "generated"), 1)
}


def is_a(layout: vi.TokenLayout, length: int, *names: str) -> torch.Tensor:
    """Which of `length` tokens belong to these segments; those beyond the prompt are generated."""
    codes = torch.full((layout.batch, length), SEGMENT["generated"])
    codes[:, : layout.length] = layout.segments[:, :length]
    return torch.isin(codes, torch.tensor([SEGMENT[name] for name in names]))


def knockout(layout, source, target, layers, *, first_token=False) -> dict[str, OnScores]:
    """An edit of `forward` and `answer`: cut source columns in target rows."""

    def scores(layer, table):
        length = table.shape[-1]
        rows, columns = is_a(layout, length, *target), is_a(layout, length, *source)
        if first_token:
            rows[:, layout.length - 1] = True
        return table.masked_fill(
            (rows[:, :, None] & columns[:, None])[:, None] & (layer in layers), -torch.inf
        )

    return {"scores": scores}


def redistribution(
    layout, mode, layers, dims, tau, *, online=True, **shares
) -> dict[str, OnPattern]:
    """An edit of `forward` and `answer`: VAR, row by row in numpy.

    `online`: whether generated tokens may be sinks.
    """

    def pattern(layer, weights, resid):
        if layer not in layers:
            return weights
        length = weights.shape[-1]
        found = phi(resid, dims)
        sink = (found >= tau if mode == "paper" else found > tau) & (
            is_a(layout, length, *SEGMENT).numpy()
        )
        if not online:
            sink &= ~is_a(layout, length, "generated").numpy()
        image = is_a(layout, length, "image").numpy()
        rows = is_a(layout, length, "query", "generated").numpy()
        new = weights.double().numpy()
        for b, h, q in np.ndindex(new.shape[:3]):
            if rows[b, q]:
                new[b, h, q] = VAR[mode](new[b, h, q], sink[b], image[b], **shares)
        return torch.from_numpy(new).to(weights.dtype)

    return {"pattern": pattern}
