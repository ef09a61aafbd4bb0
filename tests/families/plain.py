"""What every family must equal: plain transformers in eager attention, edited from outside.

Nothing here uses the package's kernels, edits or engine, nor a family's form.
"""

import sys
from contextlib import contextmanager

import numpy as np
import torch

from tests.restated import VAR, phi


def decoder_layers(hf_model):
    """The layers of the language model, found by their attention modules' class."""
    inner = getattr(hf_model, "model", None)
    if inner is None:  # a whole language model inside: BLIP-2, Llama 4
        return hf_model.language_model.model.layers
    decoder = getattr(inner, "language_model", None) or inner.text_model
    return decoder.layers


@contextmanager
def hooked(handles):
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def cut(hf_model, rows, columns, layers):
    """Knockout: forbid edges in the mask that transformers itself hands to eager attention.

    `rows` and `columns` are batch token masks over the whole run; the keys at hand are the last
    ones seen, as a sliding window keeps no others.
    """
    seen = dict.fromkeys(range(len(decoder_layers(hf_model))), 0)

    def hook(layer):
        def change(module, args, kwargs):
            del module
            mask = kwargs["attention_mask"]
            n_rows, n_keys = mask.shape[-2:]
            # Layers that share keys may compute the last row of a prompt alone.
            stop = seen[layer] = max(seen[layer] + n_rows, n_keys)
            edges = (
                rows[:, None, stop - n_rows : stop, None]
                & columns[:, None, None, stop - n_keys : stop]
            )
            new = mask.expand(len(rows), *mask.shape[1:]).clone()
            kwargs["attention_mask"] = new.masked_fill(edges, torch.finfo(mask.dtype).min)
            return args, kwargs

        return change

    blocks = decoder_layers(hf_model)
    return hooked(
        [
            blocks[layer].self_attn.register_forward_pre_hook(hook(layer), with_kwargs=True)
            for layer in layers
        ]
    )


@contextmanager
def redistributed(hf_model, image, text_rows, real, dims, tau, layers, **shares):
    """VAR of the paper, row by row in numpy, inside transformers' own eager attention."""
    blocks = decoder_layers(hf_model)
    inner = [getattr(block, "self_attn", None) for block in blocks]
    module = sys.modules[type(next(filter(None, inner))).__module__]
    own = module.eager_attention_forward
    entered = {}

    def remember(layer):
        def hook(_, args, kwargs):
            resid = (args[0] if args else kwargs["hidden_states"]).detach().clone()
            before = entered.get(layer)
            entered[layer] = resid if before is None else torch.cat([before, resid], 1)

        return hook

    def attention(attending, query, key, value, attention_mask, scaling, **kwargs):
        layer = next((i for i, one in enumerate(inner) if one is attending), None)
        z, weights = own(attending, query, key, value, attention_mask, scaling=scaling, **kwargs)
        if layer not in layers:
            return z, weights
        stop = entered[layer].shape[1]
        keys, rows = slice(stop - key.shape[2], stop), range(stop - query.shape[2], stop)
        sink = (phi(entered[layer], dims) >= tau) & real[:, :stop].numpy()
        new = weights.double().numpy()
        for b, h, q in np.ndindex(new.shape[:3]):
            if text_rows[b, rows[q]]:
                args = (sink[b, keys], image[b, keys].numpy())
                new[b, h, q] = VAR["paper"](new[b, h, q], *args, **shares)
        weights = torch.from_numpy(new).to(value.dtype)
        values = value.repeat_interleave(query.shape[1] // key.shape[1], 1)
        return (weights @ values).transpose(1, 2).contiguous(), weights

    handles = [
        block.register_forward_pre_hook(remember(i), with_kwargs=True)
        for i, block in enumerate(blocks)
    ]
    module.eager_attention_forward = attention
    try:
        with hooked(handles):
            yield
    finally:
        module.eager_attention_forward = own


@contextmanager
def local_vision(hf_model):
    """A vision tower whose attention adds nothing: features depend on their own pixels alone."""
    parts = [
        (name, weight)
        for name, weight in hf_model.named_parameters()
        if any(part in name for part in ("vision", "visual", "image_tower"))
        and any(part in name for part in (".out_proj.", ".proj.", ".o_proj.", "projection_layer"))
        and "attn" in name.replace("attention", "attn")
    ]
    assert parts, "this tower's attention has no output projection by a known name"
    kept = [weight.detach().clone() for _, weight in parts]
    with torch.no_grad():
        for _, weight in parts:
            weight.zero_()
    try:
        yield
    finally:
        with torch.no_grad():
            for (_, weight), old in zip(parts, kept, strict=True):
                weight.copy_(old)
