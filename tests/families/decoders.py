"""Tiny multimodal models around language models that their family does not come with."""

import torch
from transformers import AutoConfig

import vsink_interp as vi
from vsink_interp.families import FAMILIES
from vsink_interp.families.tiny import TEXT, build

SINKS = vi.SinkDims((3, 17), 1.6, source="planted")
WINDOWS = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 8}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16}
LEARNED_SINKS = {
    "gpt_oss": {
        **WINDOWS,
        **EXPERTS,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    },
    "granite_swa": {**WINDOWS, "residual_multiplier": 0.5, "attention_multiplier": 0.25},
}
"""Language models whose softmax has learned sinks, and what a tiny one needs beside the sizes."""


def around(text, family="LLaVA-1.5", *, attention="sdpa", **sizes):
    """The tiny model of a family with a language model of another type, and its processor."""
    config, processor = next(form for form in FAMILIES if form.name == family).tiny()
    vocab = config.get_text_config().vocab_size
    config.text_config = AutoConfig.for_model(text, **{**TEXT, "vocab_size": vocab, **sizes})
    model = build(config, attention)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(".sinks"):  # so that they matter, and not the same in every head
                weight.copy_(torch.linspace(1.0, 4.0, weight.numel()))
    return model, processor


def opened(text, family="LLaVA-1.5", *, attention="sdpa", check=False, **sizes):
    """An `LMM` of `around`."""
    model, processor = around(text, family, attention=attention, **sizes)
    return vi.LMM(model, processor, sinks=SINKS, check=check)
