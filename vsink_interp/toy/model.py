"""The toy LMM's configuration, tokenizer and processor, built from nothing.

A genuine `LlavaForConditionalGeneration`: a CLIP tower, the two-layer projector, a Llama decoder,
and a word-level tokenizer. Saved, they load with `from_pretrained` like any published LLaVA.
"""

from pathlib import Path
from typing import Final

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
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

from .language import words
from .scenes import PATCH, SIZE

BOS: Final = "<s>"
EOS: Final = "</s>"
PAD: Final = "<pad>"
UNKNOWN: Final = "<unk>"
IMAGE: Final = "<image>"
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{{ message['role'] + ' : ' }}"
    "{% if message['content'] is string %}{{ message['content'] + ' ' }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image> ' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}"
    "{{ part['text'] + ' ' }}{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ '</s> ' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant :' }}{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer: one token a word, lower case, `<s>` in front of every text."""
    vocabulary = {w: i for i, w in enumerate((PAD, BOS, EOS, UNKNOWN, IMAGE, *words()))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    inner.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, vocabulary[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        padding_side="left",
        model_max_length=512,
        extra_special_tokens={"image_token": IMAGE},
    )


def build_processor() -> LlavaProcessor:
    """Tokenizer and image processor in one; an image of any size is resized to the model's."""
    size = {"height": SIZE, "width": SIZE}
    images = CLIPImageProcessorPil(
        size=size,
        crop_size=size,
        do_center_crop=False,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        images,
        build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_config(tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    """A one-layer CLIP tower over 8 x 8 patches and a Llama of 8 layers, 4 heads, width 96."""
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=192,
        projection_dim=96,
        num_hidden_layers=1,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=PATCH,
        hidden_act="gelu",
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=4,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        initializer_range=0.06,
        tie_word_embeddings=False,
        **special,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.get_vocab()[IMAGE],  # ty: ignore[unknown-argument] - an alias
        image_seq_length=(SIZE // PATCH) ** 2,
        projector_hidden_act="gelu",
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
        **special,
    )


@torch.no_grad()
def _start_as_lookup(model: LlavaForConditionalGeneration, gain: float = 1.7) -> None:
    """Start the heads as soft lookups: keys like queries, outputs the transpose of values.

    A row then attends to what resembles it and copies it, and `lm_head` reads words as they are
    embedded. Mimetic initialisation (Trockman and Kolter, 2023): with the usual one, reading an
    object by its colour stays at chance for thousands of steps.
    """
    model.lm_head.weight.copy_(model.get_input_embeddings().weight)  # ty: ignore[invalid-argument-type]
    for layer in model.model.language_model.layers:
        heads = layer.self_attn
        heads.q_proj.weight.mul_(gain)
        heads.k_proj.weight.copy_(heads.q_proj.weight)
        heads.o_proj.weight.copy_(heads.v_proj.weight.T)


def build_model(seed: int = 0) -> LlavaForConditionalGeneration:
    """The untrained model, in fp32, the same for the same seed; it decodes greedily."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    model = LlavaForConditionalGeneration(build_config(tokenizer)).float()
    _start_as_lookup(model)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
        max_new_tokens=48,
    )
    return model


def save(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Write model, tokenizer and processor files, loadable with `from_pretrained`."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    build_processor().save_pretrained(folder)
