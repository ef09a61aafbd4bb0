"""The two pretrained parts as transformers knows them: SmolLM2-135M, its tokenizer, DINOv2-small.

Each is given as a configuration and a state dictionary in fp32.
"""

from typing import Any, Final

import torch
from jaxtyping import Float
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import Dinov2Config, LlamaConfig, PreTrainedTokenizerFast

from .gguf import GgufFile
from .onnx import read_onnx
from .packages import LANGUAGE, VISION, checked

START: Final = "<|im_start|>"
END: Final = "<|im_end|>"
UNKNOWN: Final = "<|endoftext|>"
IMAGE: Final = "<image>"
IMAGE_SIZE: Final = 112
PATCH: Final = 14
_SPECIAL: Final = 3
_RESERVED: Final = "<reponame>"
"""A special token that SmolLM2 never uses; the small LMM writes its image token in its place."""

_LAYER: Final = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_OUTER: Final = {"token_embd": "embed_tokens", "output_norm": "norm"}


def language_file() -> GgufFile:
    """SmolLM2's file, its hash checked."""
    return GgufFile(checked(LANGUAGE))


def language_config(file: GgufFile) -> LlamaConfig:
    """SmolLM2-135M's configuration, from the file's metadata."""
    read = file.metadata
    heads = read["llama.attention.head_count"]
    return LlamaConfig(
        vocab_size=read["llama.vocab_size"],
        hidden_size=read["llama.embedding_length"],
        intermediate_size=read["llama.feed_forward_length"],
        num_hidden_layers=read["llama.block_count"],
        num_attention_heads=heads,
        num_key_value_heads=read["llama.attention.head_count_kv"],
        head_dim=read["llama.embedding_length"] // heads,
        rope_parameters={"rope_type": "default", "rope_theta": read["llama.rope.freq_base"]},
        max_position_embeddings=read["llama.context_length"],
        rms_norm_eps=round(read["llama.attention.layer_norm_rms_epsilon"], 10),
        tie_word_embeddings=True,
        bos_token_id=read["tokenizer.ggml.bos_token_id"],
        eos_token_id=read["tokenizer.ggml.eos_token_id"],
        pad_token_id=read["tokenizer.ggml.padding_token_id"],
    )


def _rotated_back(weight: Tensor, heads: int) -> Float[Tensor, "out d_model"]:
    """Rows of W_Q or W_K in transformers' order: llama.cpp interleaves the halves of each head."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def language_weights(file: GgufFile) -> dict[str, Tensor]:
    """SmolLM2's weights under the names that `LlamaModel` gives them."""
    heads = {
        "attn_q": file.metadata["llama.attention.head_count"],
        "attn_k": file.metadata["llama.attention.head_count_kv"],
    }
    made = {}
    for name in file.entries:
        weight = torch.from_numpy(file.tensor(name))
        kind = name.removesuffix(".weight").split(".")[-1]
        if kind in heads:
            weight = _rotated_back(weight, heads[kind])
        place = f"layers.{name.split('.')[1]}.{_LAYER[kind]}" if kind in _LAYER else _OUTER[kind]
        made[f"{place}.weight"] = weight.contiguous()
    return made


def build_tokenizer(file: GgufFile) -> PreTrainedTokenizerFast:
    """SmolLM2's tokenizer, with `<image>` in the place of a special token that it never uses."""
    tokens = [IMAGE if t == _RESERVED else t for t in file.metadata["tokenizer.ggml.tokens"]]
    merges = [tuple(pair.split(" ")) for pair in file.metadata["tokenizer.ggml.merges"]]
    inner = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    inner.decoder = decoders.ByteLevel()
    kinds = file.metadata["tokenizer.ggml.token_type"]
    special = [
        AddedToken(token, special=True, normalized=False)
        for token, kind in zip(tokens, kinds, strict=True)
        if kind == _SPECIAL
    ]
    inner.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        unk_token=UNKNOWN,
        padding_side="left",
        model_max_length=file.metadata["llama.context_length"],
        clean_up_tokenization_spaces=False,
        extra_special_tokens={"image_token": IMAGE},
    )


def vision_config() -> Dinov2Config:
    """DINOv2-small's configuration; positions are interpolated to the smaller image."""
    return Dinov2Config(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        image_size=518,
        patch_size=PATCH,
    )


def vision_weights() -> dict[str, Tensor]:
    """DINOv2-small's weights under the names that `Dinov2Model` gives them.

    The exporter kept the names of biases and vectors; matrices have the name of the node that
    multiplies by them, and are transposed. Position embeddings are two constants.
    """
    weights, nodes = read_onnx(checked(VISION))
    made: dict[str, Any] = {}
    for name, values in weights.items():
        if name.startswith("backbone."):
            made[name.removeprefix("backbone.")] = values
    for node, inputs in nodes.items():
        if node.startswith("/backbone/") and node.endswith("/MatMul") and inputs[1] in weights:
            place = node.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            made[f"{place}.weight"] = weights[inputs[1]].T
    cls = next(
        v
        for v in weights.values()
        if v.shape == (1, 1, 384) and v is not made["embeddings.cls_token"]
    )
    patches = next(v for v in weights.values() if v.shape == (1, 37 * 37, 384))
    made = {_renamed(name): torch.tensor(values) for name, values in made.items()}
    made["embeddings.position_embeddings"] = torch.cat(
        [torch.tensor(cls), torch.tensor(patches)], 1
    )
    made["embeddings.mask_token"] = torch.zeros(1, 384)
    return made


def _renamed(name: str) -> str:
    """A name in DINOv2's original modules as transformers 5 has it."""
    for old, new in (
        ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.key", "attention.k_proj"),
        ("attention.attention.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"),
    ):
        name = name.replace(old, new)
    return name
