"""LLaVA with vision towers other than CLIP's: they open, and their tokens are counted as made."""

from functools import reduce
from operator import or_

import pytest
import torch
from transformers import (
    BeitConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    DINOv3ViTConfig,
    IJepaConfig,
    SiglipVisionConfig,
    SwinConfig,
    ViTConfig,
)

import vsink_interp as vi
from tests import tiny
from vsink_interp.families.llava import LLAVA
from vsink_interp.families.tiny import VISION, build

SIZES = {**VISION, "image_size": 70, "patch_size": 14}
DINO = {**SIZES, "mlp_ratio": 2}
STAGES = {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2]}
# The configuration, the additional tokens that the processor counts, and the strategy.
TOWERS = {
    "dinov2": (Dinov2Config(**DINO), 1, "default"),
    "registers": (Dinov2WithRegistersConfig(**DINO, num_register_tokens=3), 4, "default"),
    "dinov3": (DINOv3ViTConfig(**SIZES, num_register_tokens=2), 3, "default"),
    "vit": (ViTConfig(**{**SIZES, "image_size": 42}), 1, "default"),
    "beit": (BeitConfig(**{**SIZES, "image_size": 42}), 1, "full"),
    "ijepa": (IJepaConfig(**{**SIZES, "image_size": 42}), 0, "full"),
    "siglip": (SiglipVisionConfig(**{**SIZES, "image_size": 42}), 0, "full"),
    "swin": (SwinConfig(**STAGES, image_size=42, patch_size=7, window_size=3), 0, "full"),
}
SCALED = ("dinov2", "registers")


def opened(name):
    """A tiny LLaVA around a tower; its processor makes 42 x 42 pixels, so 9 patches of 14."""
    vision, more, strategy = TOWERS[name]
    config, processor = LLAVA.tiny()
    config.vision_config = vision
    config.vision_feature_select_strategy = strategy
    processor.vision_feature_select_strategy = strategy
    processor.num_additional_image_tokens = more
    if name == "swin":
        processor.patch_size = 14
    return vi.LMM(build(config), processor)


@pytest.mark.parametrize("name", TOWERS)
def test_a_tower_opens_and_is_read(name):
    model = opened(name)
    image = tiny.image()
    encoding = model.encode(image, "what is this")
    ids = encoding.inputs["input_ids"]
    (span,) = encoding.layout.images[0]
    made = int((ids == model.hf_model.config.image_token_id).sum())
    with torch.no_grad():
        pixels = encoding.inputs["pixel_values"]
        (features,) = model.hf_model.model.get_image_features(pixels).pooler_output
        theirs = model.hf_model(**encoding.inputs, output_hidden_states=True)
        tower = model.hf_model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    assert span.size == made == len(features)
    assert torch.equal(model.run(encoding).logits, theirs.logits)
    probe = vi.probes.Activation("vision_encoder.blocks.{layer}.hook_resid_post", (0,))
    if name == "swin":  # its layers merge patches, and there is no one grid
        with pytest.raises(vi.CapabilityError, match="no vision layers"):
            model.run(encoding, graph=probe)
        return
    assert span.grid == (3, 3)
    assert torch.allclose(model.run(encoding, graph=probe)[probe].values[0], tower[1], atol=1e-6)


@pytest.mark.parametrize("name", SCALED)
def test_what_a_layer_with_layer_scale_adds(name):
    model = opened(name)
    names = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
    probes = [
        vi.probes.Activation(f"vision_encoder.blocks.{{layer}}.{hook}", (1,)) for hook in names
    ]
    run = model.run(tiny.image(), "what is this", reduce(or_, probes))
    before, attention, mlp, after = (run[probe].values for probe in probes)
    assert attention.abs().max() > 0
    assert torch.allclose(before + attention + mlp, after, atol=1e-5)
