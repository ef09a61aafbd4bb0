"""A model whose tower has no usual place: its decoder is open, its vision hooks are refused."""

from functools import cache

import pytest
import torch
from transformers import Ovis2Config, Ovis2Processor
from transformers.models.ovis2.image_processing_pil_ovis2 import Ovis2ImageProcessorPil

import vsink_interp as vi
from tests.families import plain
from tests.families.test_families import NEAR, PROMPTS, SINKS, apart, logits
from vsink_interp.families.tiny import TEXT, VISION, build, fill, tokenizer

MARKS = ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")


@cache
def ovis2():
    """A tiny Ovis2, in eager attention."""
    words = tokenizer("<image>", "<IMG_ATOM>", *MARKS)
    images = fill(Ovis2ImageProcessorPil, size={"height": 56, "width": 56}, crop_to_patches=False)
    vision = {**VISION, "image_size": 56, "patch_size": 14, "vocab_size": 37}
    config = fill(
        Ovis2Config,
        text_config={**TEXT, "vocab_size": len(words), "model_type": "qwen2"},
        vision_config={**vision, "num_visual_indicator_tokens": len(MARKS)},
        image_token_id=words.convert_tokens_to_ids("<IMG_ATOM>"),
        visual_indicator_token_ids=[words.convert_tokens_to_ids(mark) for mark in MARKS],
        vocab_size=len(words),
        hidden_size=TEXT["hidden_size"],
        tie_word_embeddings=False,
    )
    processor = Ovis2Processor(images, words, image_seq_length=16)
    return vi.LMM(build(config, "eager"), processor, sinks=SINKS)


def test_its_decoder_is_open_and_its_vision_hooks_are_refused_by_name():
    lmm = ovis2()
    assert lmm.capabilities.inferred
    assert lmm.capabilities.passed
    assert {"blocks.{layer}.attn.hook_pattern", "blocks.{layer}.hook_resid_post"} <= set(lmm.hooks)
    assert not any(hook.startswith("vision") for hook in lmm.hooks)
    for hook in ("vision_projector.hook_out", "vision_encoder.blocks.{layer}.hook_resid_pre"):
        with pytest.raises(vi.CapabilityError, match=r"it has no (projector|vision layers) at"):
            lmm.run(*PROMPTS["one"], vi.probes.Activation(hook))


def test_a_knockout_equals_a_cut_in_transformers_own_mask():
    lmm = ovis2()
    encoding = lmm.encode(*PROMPTS["two"])
    image = encoding.inputs["input_ids"] == lmm.hf_model.config.image_token_id
    assert torch.equal(encoding.layout.mask("image"), image)
    assert [span.size for span in encoding.layout.images[0]] == [16, 16]
    with plain.cut(lmm.hf_model, encoding.layout.mask("query"), image, range(4)):
        theirs = logits(lmm.hf_model, encoding)
    run = lmm.run(encoding, graph=vi.Knockout("image -> query"))
    assert apart(theirs, logits(lmm.hf_model, encoding)) > 0.1
    assert apart(run.logits, theirs) < NEAR
