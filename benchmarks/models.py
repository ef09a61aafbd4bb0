"""Models of the size that matters, with random weights: what the benchmarks run."""

from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

import vsink_interp as vi

GRIDS = {600: 24, 1200: 34, 3000: 54}
"""Image patches a side, for a prompt of about this many tokens."""
IMAGES = {582: 1, 2_886: 5, 12_102: 21}
"""Images of 576 patches, for a prompt of this many tokens."""


@dataclass(frozen=True)
class Size:
    """A decoder: width, heads, key heads, layers."""

    width: int = 1024
    heads: int = 16
    kv_heads: int = 16
    layers: int = 4


SEVEN_B = Size(width=4096, heads=32, kv_heads=32, layers=32)
"""The decoder of LLaVA-1.5-7B; with eight key heads that of Llama 3."""


def build(tokens: int, size: Size, attention: str = "sdpa", device: str = "cpu") -> vi.LMM:
    """A LLaVA with a one-layer tower and a decoder of `size`, for prompts of `tokens` tokens.

    In fp32 on the CPU, in bf16 on a GPU, where its weights are made.
    """
    torch.manual_seed(0)
    grid, width = GRIDS[tokens], size.width
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            image_size=grid * 4,
            patch_size=4,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
        ),
        text_config=LlamaConfig(
            hidden_size=width,
            intermediate_size=width * 43 // 16,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.kv_heads,
            vocab_size=256,
            max_position_embeddings=4096,
        ),
        image_token_index=4,
        vision_feature_layer=-1,
    )
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    with torch.device(device):
        model = LlavaForConditionalGeneration._from_config(
            config, attn_implementation=attention, dtype=dtype
        ).eval()
    model.generation_config.eos_token_id = None
    lmm = vi.LMM(model, processor(grid), check=device == "cpu")
    lmm.sinks = plant(lmm, tokens)
    return lmm


def processor(grid: int) -> LlavaProcessor:
    """A word-level tokenizer and CLIP's image processor."""
    words = ["<pad>", "<s>", "</s>", "<unk>", "<image>", *(f"w{i}" for i in range(200))]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )
    side = {"height": grid * 4, "width": grid * 4}
    images = CLIPImageProcessorPil(size=side, crop_size=side)
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def prompt(lmm: vi.LMM, tokens: int) -> vi.Encoding:
    """A prompt of about `tokens` tokens: one image, the rest text."""
    side = GRIDS[tokens] * 4
    noise = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    text = " ".join(f"w{i}" for i in range(tokens - GRIDS[tokens] ** 2 - 4))
    return lmm.encode(noise, f"<s> <image> {text}", chat=False)


def plant(lmm: vi.LMM, tokens: int) -> vi.SinkDims:
    """Sink dimensions and a threshold that make about one token in forty a sink."""
    dims = (0, 1)
    probe = vi.probes.SinkValue(layers=1, dims=dims)
    phi = lmm.run(prompt(lmm, tokens), graph=probe)[probe].values
    return vi.SinkDims(dims, float(phi.quantile(0.975)), source="planted for a benchmark")


def describing(lmm: vi.LMM) -> tuple[vi.LMM, vi.Encoding]:
    """An LMM and a scene to describe; it always says as many words."""
    lmm.hf_model.generation_config.eos_token_id = None
    lmm.sinks  # noqa: B018 (found now, not while the clock runs)
    return lmm, lmm.encode(vi.toy.scene(0).image, "describe the image")


def narrow() -> vi.LMM:
    """Two narrow layers, so that long prompts fit; costs beside attention weigh the more."""
    lmm = build(600, Size(width=128, heads=4, kv_heads=4, layers=2))
    lmm.sinks = vi.SinkDims((3, 17), 6.0)
    return lmm


def many_images(lmm: vi.LMM, n_images: int, batch: int = 1) -> vi.Encoding:
    """The same prompt about so many images, so many times."""
    side = GRIDS[600] * 4
    shown = [
        np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
        for seed in range(n_images)
    ]
    text = "<s> " + "<image> " * n_images + "w1 w2 w3 w4 w5"
    return lmm.encode([shown] * batch, [text] * batch, chat=False)
