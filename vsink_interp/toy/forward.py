"""The training forward pass: the real modules of the model, with one mask a layer.

Plain transformers has one mask for all layers; training hides the picture from text rows in some
of them. What runs is the model's own weights, and `tests/toy` holds its logits equal to
`model(...)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import LlavaForConditionalGeneration
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, apply_rotary_pos_emb


@dataclass(frozen=True, eq=False)
class Trace:
    """What the losses need of one pass: final residual, residuals entering each layer, head norms.

    `head_norm` is the mean over layers, rows and heads of the norm of a head's output; `found` has
    for the layers asked for the attention [row head] of rows with a source to that source.
    """

    final: Float[Tensor, "batch token d_model"]
    resid_pre: list[Tensor]
    head_norm: Float[Tensor, ""]
    found: list[Tensor]


def embed(
    model: LlavaForConditionalGeneration,
    ids: Int[Tensor, "batch token"],
    pixels: Float[Tensor, "batch channel height width"] | None,
) -> Float[Tensor, "batch token d_model"]:
    """Token embeddings, image placeholders filled from the tower and the projector."""
    embedded = model.get_input_embeddings()(ids)
    if pixels is None:
        return embedded
    features = torch.cat(list(model.model.get_image_features(pixels).pooler_output))
    places = (ids == model.config.image_token_id).unsqueeze(-1)
    return embedded.masked_scatter(places, features)


def _attend(
    layer: LlamaDecoderLayer,
    rows: Float[Tensor, "batch token d_model"],
    mask: Tensor,
    rotary: tuple[Tensor, Tensor],
    source: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Attention of one layer, the mean norm of its heads' outputs, and attention to sources."""
    attention = layer.self_attn
    weights = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
    joint = F.linear(rows, torch.cat(weights)).unflatten(-1, (3, -1, attention.head_dim))
    query, key, value = joint.permute(2, 0, 3, 1, 4)
    query, key = apply_rotary_pos_emb(query, key, *rotary)
    heads = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    norm = (heads.square().sum(-1) + 1e-6).sqrt().mean()
    found = None if source is None else _to_source(query, key, mask, source, attention.scaling)
    return attention.o_proj(heads.transpose(1, 2).flatten(2)), norm, found


def _to_source(query: Tensor, key: Tensor, mask: Tensor, source: Tensor, scale: float) -> Tensor:
    """The attention [row head] from each row that has a visible source to that source."""
    item, row = (source >= 0).nonzero(as_tuple=True)
    wanted = source[item, row]
    seen = mask[item, 0, row, wanted] == 0
    item, row, wanted = item[seen], row[seen], wanted[seen]
    scores = torch.einsum("rhd,rhkd->rhk", query[item, :, row], key[item]) * scale
    pattern = (scores + mask[item, 0, row].unsqueeze(1)).softmax(-1)
    return pattern[torch.arange(len(wanted)), :, wanted]


def trace(
    model: LlavaForConditionalGeneration,
    embedded: Float[Tensor, "batch token d_model"],
    position: Int[Tensor, "batch token"],
    masks: Sequence[Bool[Tensor, "batch query key"]],
    source: Int[Tensor, "batch token"] | None = None,
    sought: Sequence[int] = (),
) -> Trace:
    """Run the decoder over embedded tokens, layer `l` under `masks[l]`.

    In the layers `sought` it also keeps the attention from rows to their `source`.
    """
    decoder = model.model.language_model
    rotary = decoder.rotary_emb(embedded, position_ids=position)
    biases: dict[int, Tensor] = {}
    for mask in masks:
        if id(mask) not in biases:
            bias = torch.zeros(mask.shape, dtype=embedded.dtype, device=mask.device)
            biases[id(mask)] = bias.masked_fill_(~mask, -torch.inf).unsqueeze(1)
    residual, entering, norms, founds = embedded, [], [], []
    for number, (layer, mask) in enumerate(zip(decoder.layers, masks, strict=True)):
        entering.append(residual)
        rows, bias = layer.input_layernorm(residual), biases[id(mask)]
        added, norm, found = _attend(
            layer, rows, bias, rotary, source if number in sought else None
        )
        founds += [] if found is None else [found]
        residual = residual + added
        residual = residual + layer.mlp(layer.post_attention_layernorm(residual))
        norms.append(norm)
    return Trace(decoder.norm(residual), entering, torch.stack(norms).mean(), founds)
