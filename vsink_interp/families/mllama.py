"""Llama 3.2 Vision (Mllama): cross-attention layers read the images, which have no tokens.

The encoder has two stacks; the vision hook points are those of the first, which the second stack
and the projector follow.
"""

from typing import Any

from .form import Family

BEGIN, IMAGE = "<|begin_of_text|>", "<|image|>"
USER, ASSISTANT, SYSTEM = (
    f"<|start_header_id|>{role}<|end_header_id|>\n\n" for role in ("user", "assistant", "system")
)
END = "<|eot_id|>"


def no_spans(*_: Any) -> tuple[()]:
    """No image has tokens."""
    return ()


def tiny() -> tuple[Any, Any]:
    """A tiny Mllama whose second and fourth layers are cross-attention."""
    from transformers import MllamaConfig, MllamaImageProcessorPil, MllamaProcessor

    from .tiny import TEXT, fill, tokenizer

    marks = (IMAGE, BEGIN, "<|start_header_id|>", "<|end_header_id|>", END)
    words = tokenizer(*marks, bos=False, bos_token=BEGIN)
    images = fill(MllamaImageProcessorPil, size={"height": 28, "width": 28}, max_image_tiles=4)
    text = {
        **TEXT,
        "vocab_size": len(words),
        "cross_attention_layers": [1, 3],
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_global_layers": 1,
        "attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
        "intermediate_layers_indices": [0],
        "vision_output_dim": 64,
    }
    image_id = words.convert_tokens_to_ids(IMAGE)
    config = MllamaConfig(text_config=text, vision_config=vision, image_token_index=image_id)
    return config, fill(MllamaProcessor, images, words)


MLLAMA = Family(
    name="Mllama",
    model_types=("mllama",),
    decoder="model.language_model",
    vision_layers="model.vision_model.transformer.layers",
    projector="model.multi_modal_projector",
    projected="b i t q d",
    sight="cross-attention",
    spans=no_spans,
    nested=True,
    marker=IMAGE,
    opening=BEGIN,
    template=f"{BEGIN}{USER}{{content}}{END}{ASSISTANT}",
    role_markers=(USER, ASSISTANT, SYSTEM, END),
    tiny=tiny,
)
