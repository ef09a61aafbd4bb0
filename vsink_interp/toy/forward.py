"""The training forward pass: the real modules of the model, with one mask a layer.

Plain transformers has one mask for all layers; training hides the image from text rows in some
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
    for the layers asked for the attention [row head] of rows with a source to that source; `stray`
    is the mean attention to stray tokens.
    """

    final: Float[Tensor, "batch token d_model"]
    resid_pre: list[Tensor]
    head_norm: Float[Tensor, ""]
    found: list[Tensor]
    stray: Float[Tensor, ""]


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


@dataclass(frozen=True, eq=False)
class Watch:
    """What a pass keeps of attention: that to the source of a row, and that to stray tokens.

    `source` is the position that tells a row's label (or -1), kept in the layers `sought`; `idle`
    are image tokens without an object, and attention of `rows` to those of them that are no sinks
    is stray, summed in the layers from `first_layer` on.
    """

    source: Int[Tensor, "batch token"] | None = None
    sought: tuple[int, ...] = ()
    idle: Bool[Tensor, "batch token"] | None = None
    rows: Bool[Tensor, "batch token"] | None = None
    first_layer: int = 2
    sink_floor: float = 4.0


def _heads(
    layer: LlamaDecoderLayer,
    rows: Float[Tensor, "batch token d_model"],
    rotary: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of one layer, each [batch head token d_head]."""
    attention = layer.self_attn
    weights = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
    joint = F.linear(rows, torch.cat(weights)).unflatten(-1, (3, -1, attention.head_dim))
    query, key, value = joint.permute(2, 0, 3, 1, 4)
    return *apply_rotary_pos_emb(query, key, *rotary), value


def _stray_tokens(residual: Tensor, idle: Tensor, floor: float) -> Float[Tensor, "batch token"]:
    """1 for idle tokens whose phi, in the dimensions where the first token is massive, is low."""
    unit = F.rms_norm(residual.detach(), residual.shape[-1:])
    phi = unit[..., unit[0, 0].abs() > 3].abs()
    sinks = phi.amax(-1) >= floor if phi.shape[-1] else torch.zeros_like(idle)
    return (idle & ~sinks).float()


def _to_source(query: Tensor, key: Tensor, mask: Tensor, source: Tensor, scale: float) -> Tensor:
    """The attention [row head] from each row that has a visible source to that source."""
    item, row = (source >= 0).nonzero(as_tuple=True)
    wanted = source[item, row]
    seen = mask[item, 0, row, wanted] == 0
    item, row, wanted = item[seen], row[seen], wanted[seen]
    scores = torch.einsum("rhd,rhkd->rhk", query[item, :, row], key[item]) * scale
    pattern = (scores + mask[item, 0, row].unsqueeze(1)).softmax(-1)
    return pattern[torch.arange(len(wanted)), :, wanted]


def _biases(masks: Sequence[Tensor], dtype: torch.dtype) -> dict[int, Tensor]:
    """Each different mask as what is added to scores, [batch 1 query key], by its id."""
    made: dict[int, Tensor] = {}
    for mask in masks:
        if id(mask) not in made:
            bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
            made[id(mask)] = bias.masked_fill_(~mask, -torch.inf).unsqueeze(1)
    return made


def trace(
    model: LlavaForConditionalGeneration,
    embedded: Float[Tensor, "batch token d_model"],
    position: Int[Tensor, "batch token"],
    masks: Sequence[Bool[Tensor, "batch query key"]],
    watch: Watch = Watch(),
) -> Trace:
    """Run the decoder over embedded tokens, layer `l` under `masks[l]`, and keep what is watched.

    **Arguments:**

    - `masks`: which keys each row sees, one mask a layer; equal layers may share one tensor.
    """
    decoder = model.model.language_model
    rotary = decoder.rotary_emb(embedded, position_ids=position)
    biases = _biases(masks, embedded.dtype)
    residual, entering, norms, found, strays = embedded, [], [], [], []
    for number, (layer, mask) in enumerate(zip(decoder.layers, masks, strict=True)):
        entering.append(residual)
        query, key, value = _heads(layer, layer.input_layernorm(residual), rotary)
        bias, scale = biases[id(mask)], layer.self_attn.scaling
        if number in watch.sought and watch.source is not None:
            found.append(_to_source(query, key, bias, watch.source, scale))
        if watch.idle is not None and number >= watch.first_layer:
            pattern = (query @ key.transpose(-1, -2) * scale + bias).softmax(-1)
            heads = pattern @ value
            stray = _stray_tokens(residual, watch.idle, watch.sink_floor)
            mass = torch.einsum("bhqk,bk->bq", pattern, stray) / pattern.shape[1]
            strays.append(mass[watch.rows].mean())
        else:
            heads = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        norms.append((heads.square().sum(-1) + 1e-6).sqrt().mean())
        residual = residual + layer.self_attn.o_proj(heads.transpose(1, 2).flatten(2))
        residual = residual + layer.mlp(layer.post_attention_layernorm(residual))
    stray = torch.stack(strays).mean() if strays else embedded.new_zeros(())
    return Trace(decoder.norm(residual), entering, torch.stack(norms).mean(), found, stray)
