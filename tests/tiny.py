"""A LLaVA of random weights, small enough to compare with the plain model to rounding.

The tests of the core stand on it, not on the toy LMM: its weights never change, its attention is
spread (wide initialisation), it has grouped keys, and its sinks are planted by a threshold.
"""

from functools import cache

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import vsink_interp as vi

SIDE, PATCH = 42, 14  # 3 x 3 image tokens
N_IMAGE = (SIDE // PATCH) ** 2
LAYERS, HEADS, KV_HEADS, WIDTH, MLP, VISION_LAYERS = 4, 4, 2, 64, 96, 2
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
WORDS = (
    "user assistant : you are a helpful friend of every one what is the red blue green big small "
    "disc square left right on and with compare this to that now describe please count yes no ?"
).split()
WORDS += [f"w{i}" for i in range(64 - len(SPECIAL) - len(WORDS))]
SINKS = vi.SinkDims((3, 17), 1.6, source="planted")
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ' : ' }}"
    "{% for part in message['content'] %}"
    "{{ '<image> ' if part['type'] == 'image' else part['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'assistant :' }}{% endif %}"
)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
        extra_special_tokens={"image_token": "<image>"},
    )


def processor(template: str = TEMPLATE) -> LlavaProcessor:
    images = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    return LlavaProcessor(
        images,
        tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )


def config(**text) -> LlavaConfig:
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        projection_dim=32,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
        initializer_range=0.2,
    )
    sizes = {
        "vocab_size": len(SPECIAL) + len(WORDS),
        "hidden_size": WIDTH,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 256,
        "initializer_range": 0.15,
        "tie_word_embeddings": False,
    }
    return LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(**sizes | text, **special),
        image_token_id=4,
        image_seq_length=N_IMAGE,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
        **special,
    )


def hf_model(
    dtype: torch.dtype = torch.float32, attention: str = "sdpa", *, seed: int = 0, **text
) -> LlavaForConditionalGeneration:
    """The same weights for the same seed, in any precision, with any attention."""
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration._from_config(
        config(**text), attn_implementation=attention
    )
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight, std=0.1)
        elif "norm" in name:
            torch.nn.init.normal_(weight, mean=1.0, std=0.2)
    model.generation_config = GenerationConfig(
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
        do_sample=False,
        suppress_tokens=list(range(len(SPECIAL))),
    )
    return model.to(dtype).eval()


@cache
def lmm(dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> vi.LMM:
    return vi.LMM(hf_model(dtype, attention), processor(), sinks=SINKS, check=False)


def fresh(attention: str = "sdpa", **more) -> vi.LMM:
    """One of its own, for a test that changes it."""
    return vi.LMM(hf_model(attention=attention, **more), processor(), sinks=SINKS, check=False)


def image(seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((70, 56), Image.Resampling.NEAREST)


PROMPTS = {
    "one image": (image(0), "what is the red disc on this ?"),
    "short": (image(1), "count"),
    "text": (None, "please describe the big blue square now ?"),
    "two images": ([image(2), image(3)], "compare <image> with that <image> and count"),
    "image last": (image(4), "please describe this <image>"),
}
"""Prompts of different lengths, with images in different places."""


@cache
def encode(name: str = "one image") -> vi.Encoding:
    return lmm().encode(*PROMPTS[name])


@cache
def batch(*names: str) -> vi.Encoding:
    """Several of the prompts as one left-padded batch."""
    images, prompts = zip(*(PROMPTS[name] for name in names or PROMPTS), strict=True)
    return lmm().encode(list(images), list(prompts))


def plain(model: vi.LMM, encoding: vi.Encoding) -> torch.Tensor:
    """Logits of the untouched transformers model."""
    with torch.no_grad():
        return model.hf_model(**encoding.inputs).logits
