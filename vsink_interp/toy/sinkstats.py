"""The sink figures of the toy LMM: sink dimensions, phi, sinks a layer, masking, contribution."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from .answers import Cut, Prompts
from .data import free_patches
from .scenes import Scene


def unit_resid(
    model: LlavaForConditionalGeneration, given: Prompts
) -> Float[Tensor, "layer batch token d_model"]:
    """The RMS-normalised residual that enters each layer."""
    states = _states(model, given.ids, given.mask, given.pixels)
    return states * states.square().mean(-1, keepdim=True).rsqrt()


@torch.no_grad()
def _states(
    model: LlavaForConditionalGeneration, ids: Tensor, mask: Tensor, pixels: Tensor | None
) -> Float[Tensor, "layer batch token d_model"]:
    device = next(model.parameters()).device
    made = model(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        pixel_values=None if pixels is None else pixels.to(device),
        output_hidden_states=True,
    )
    return torch.stack(made.hidden_states[:-1]).cpu()


def first_token(
    model: LlavaForConditionalGeneration, tokens: Sequence[Sequence[int]]
) -> Float[Tensor, "prompt layer d_model"]:
    """The RMS-normalised residual of the first token of several text-only prompts."""
    firsts = []
    for ids in tokens:
        row = torch.tensor([list(ids)])
        states = _states(model, row, torch.ones_like(row), None)[:, 0, 0]
        firsts.append(states * states.square().mean(-1, keepdim=True).rsqrt())
    return torch.stack(firsts)


def sink_dims(firsts: Float[Tensor, "prompt layer d_model"], threshold: float = 3.0) -> list[int]:
    """The dimensions above the threshold in every middle layer and every prompt."""
    middle = firsts[:, firsts.shape[1] // 4 + 1 : -1].abs()
    return (middle > threshold).all(0).all(0).nonzero().flatten().tolist()


@dataclass(frozen=True)
class Gap:
    """The valley of the phi histogram: `tau` is its middle on a log scale.

    `inside` is the share of tokens whose phi is within 15 % of tau; `low` and `high` are the
    99th percentile below and the first percentile above tau.
    """

    tau: float
    inside: float
    low: float
    high: float


def valley(phi: Float[Tensor, " token"]) -> Gap:
    """The emptiest place between the two modes of phi."""
    values = np.sort(phi.numpy())
    candidates = np.exp(np.linspace(np.log(np.median(values) * 1.3), np.log(values[-1] / 1.2), 80))
    edges = np.searchsorted(values, np.stack([candidates / 1.15, candidates * 1.15]))
    counts = edges[1] - edges[0]
    emptiest = candidates[counts == counts.min()]
    tau = float(np.exp(np.log(emptiest).mean()))
    below, above = values[values < tau], values[values >= tau]
    return Gap(
        tau,
        float(counts.min() / len(values)),
        float(np.quantile(below, 0.99)),
        float(np.quantile(above, 0.01)),
    )


def image_part(
    values: Float[Tensor, "layer batch token"], given: Prompts
) -> Float[Tensor, "layer batch patch"]:
    """The image tokens of values over the whole prompt."""
    layers, batch, _ = values.shape
    return values[:, given.image].view(layers, batch, -1)


def sinks_by_layer(
    sinks: Bool[Tensor, "layer batch patch"], scenes: Sequence[Scene]
) -> dict[str, list[float | None]]:
    """For each layer: scenes with a visual sink, sinks a scene, share on background."""
    on_ground = sinks & free_patches(scenes)
    total = sinks.sum((1, 2))
    share = [
        part / whole if whole else None
        for part, whole in zip(on_ground.sum((1, 2)).tolist(), total.tolist(), strict=True)
    ]
    return {
        "scenes_with_sink": sinks.any(-1).float().mean(1).tolist(),
        "sinks_per_scene": sinks.float().sum(-1).mean(1).tolist(),
        "on_background": share,
    }


def column_cut(chosen: Bool[Tensor, "layer batch patch"], given: Prompts) -> Cut:
    """Hide the chosen image tokens of each layer from all text rows."""
    whole = torch.zeros(len(chosen), *given.image.shape, dtype=torch.bool)
    whole[:, given.image] = chosen.flatten(1)
    return Cut(lambda layer: whole[layer])


def random_patches(
    sinks: Bool[Tensor, "layer batch patch"], rng: np.random.Generator, *, fixed: bool
) -> Bool[Tensor, "layer batch patch"]:
    """As many image tokens as there are sinks, drawn among the others.

    `fixed` draws one order of patches for all layers, otherwise each layer has its own.
    """
    noise = torch.from_numpy(rng.random(sinks.shape)).float()
    if fixed:
        noise = noise[:1].expand_as(noise).clone()
    noise[sinks] = 2.0
    rank = noise.argsort(-1).argsort(-1)
    return rank < sinks.sum(-1, keepdim=True)


@torch.no_grad()
def contributions(
    model: LlavaForConditionalGeneration, ids: Tensor, given: Prompts
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention and contribution norm of each image token, averaged over text rows and heads.

    `ids` are the prompts with their generated tokens. **Returns:** attention
    [layer batch patch], the norm of alpha x W_OV [layer batch patch], and the share of attention
    that text rows give to `<s>` [layer batch].
    """
    device = next(model.parameters()).device
    pad = model.config.get_text_config().pad_token_id
    made = model(
        input_ids=ids.to(device),
        attention_mask=(ids != pad).long().to(device),
        pixel_values=given.pixels.to(device),
        output_hidden_states=True,
        output_attentions=True,
    )
    length = given.ids.shape[1]
    rows = torch.cat([given.query, ids[:, length:] != pad], 1).float()
    attention, contribution, first = [], [], []
    for layer, states, pattern in zip(
        model.model.language_model.layers, made.hidden_states[:-1], made.attentions, strict=True
    ):
        heads = layer.self_attn
        value = heads.v_proj(layer.input_layernorm(states)).unflatten(-1, (-1, heads.head_dim))
        out = heads.o_proj.weight.unflatten(1, (-1, heads.head_dim))
        norm = torch.einsum("bkhe,dhe->bhkd", value, out).norm(dim=-1)
        weight = (rows / rows.sum(1, keepdim=True)).to(device)
        seen = torch.einsum("bhqk,bq->bhk", pattern, weight)
        attention.append(seen.mean(1)[:, :length].cpu()[given.image].view(len(ids), -1))
        moved = (seen * norm).mean(1)[:, :length].cpu()
        contribution.append(moved[given.image].view(len(ids), -1))
        first.append(seen.mean(1)[:, 0].cpu())
    return torch.stack(attention), torch.stack(contribution), torch.stack(first)
