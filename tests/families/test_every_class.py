"""Every image-text-to-text class of transformers opens, or is refused in words of ours."""

import re

import pytest
import torch
from transformers import PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING as CLASSES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as TYPES,
)

import vsink_interp as vi
from vsink_interp.families import FAMILIES
from vsink_interp.families.tiny import tokenizer

DEPTHS = "num_hidden_layers depth num_layers n_layers encoder_layers decoder_layers".split()
UNBUILT = frozenset(
    "aya_vision chameleon cohere_compass deepseek_ocr2 diffusion_gemma emu3 fast_vlm gemma3n "
    "granite4_vision hunyuan_vl perception_lm qwen4_exp".split()
)
"""Classes that transformers itself does not build from their default configuration, or not without
timm. Of these, Emu3 and Aya Vision are tried with weights elsewhere."""
PARTS = {
    "vision-encoder-decoder": {
        "encoder": {"model_type": "vit"},
        "decoder": {"model_type": "bert", "is_decoder": True, "add_cross_attention": True},
    }
}
"""What transformers 5.18 has no default for; these are the ones of 5.23."""


class Processor:
    """What the form of a family asks a processor for; an image is one token."""

    image_token = "<image>"
    tokenizer = tokenizer("<image>")

    def __init__(self, config):
        self.number = getattr(config, "image_token_id", None)

    def __call__(self, text, images, **more):
        del images
        made = self.tokenizer(text, **more)
        own = self.tokenizer.convert_tokens_to_ids(self.image_token)
        made["input_ids"][made["input_ids"] == own] = self.number
        return made


def shallow(config):
    """Cut a configuration to two layers everywhere; without weights width costs nothing."""
    for name in DEPTHS:
        if isinstance(depth := getattr(config, name, None), int):
            setattr(config, name, min(depth, 2))
    if isinstance(kinds := getattr(config, "layer_types", None), list):
        config.layer_types = kinds[:2]
    for part in vars(config).values():
        if isinstance(part, PretrainedConfig):
            shallow(part)


KNOWN = {kind for family in FAMILIES for kind in family.model_types}
REFUSED = "is of no known family|an encoder, beside its decoder"
BY_TEMPLATE = {point.template: point for point in vi.HOOKS}


@pytest.mark.parametrize("kind", sorted({*TYPES} - KNOWN - UNBUILT))
def test_a_class_opens_or_is_refused_by_name(kind):
    config = CONFIG_MAPPING[kind](**PARTS.get(kind, {}))
    shallow(config)
    with torch.device("meta"):
        model = CLASSES[type(config)]._from_config(config).eval()
    try:
        lmm = vi.LMM(model, Processor(config), check=False)
    except vi.CapabilityError as error:
        assert re.search(REFUSED, str(error))
    else:
        assert "blocks.{layer}.hook_resid_post" in lmm.hooks
        assert all(lmm.hooked.refusal(BY_TEMPLATE[hook]) for hook in {*BY_TEMPLATE} - {*lmm.hooks})


def test_what_a_part_of_a_strange_model_raises_becomes_an_error_of_ours():
    config = CONFIG_MAPPING["got_ocr2"]()
    shallow(config)
    with torch.device("meta"):
        model = CLASSES[type(config)]._from_config(config).eval()
    processor = Processor(config)
    processor.tokenizer = None
    with pytest.raises(vi.CapabilityError, match=r"could not be opened.*docs/adding-a-family"):
        vi.LMM(model, processor, check=False)
