"""What docs/transformer-lens.md says of TransformerLens: edits of attention on Qwen-VL are lost."""

import warnings

import pytest
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from tests import nodes, tiny
from tests.integrations.conftest import boot

IMAGE, START, END = 4, 5, 6


def qwen():
    """A tiny Qwen2.5-VL of random weights."""
    text = {
        "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.15,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]
        },
    }  # fmt: skip
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2,
        "out_hidden_size": 64, "patch_size": 14, "spatial_merge_size": 2, "window_size": 56,
        "fullatt_block_indexes": [1],
    }  # fmt: skip
    special = {"image_token_id": IMAGE, "vision_start_token_id": START, "vision_end_token_id": END}
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **special)
    return Qwen2_5_VLForConditionalGeneration._from_config(
        config, attn_implementation="eager"
    ).eval()


@pytest.fixture(scope="module")
def bridge(tmp_path_factory):
    pytest.importorskip("transformer_lens")
    pytest.importorskip("torchvision")
    return boot(qwen(), tmp_path_factory.mktemp("qwen"), tiny.tokenizer())


def inputs():
    ids = torch.tensor([[1, 10, START, *[IMAGE] * 4, END, 20, 21, 22]])
    pixels = torch.randn(16, 1176, generator=torch.Generator().manual_seed(0))
    return {
        "input": ids,
        "pixel_values": pixels,
        "image_grid_thw": torch.tensor([[1, 4, 4]]),
        "mm_token_type_ids": (ids == IMAGE).long(),
    }


def logits(bridge, hook=None):
    """Logits with a hook point set to zero, and the warnings."""

    def zero(value, hook):  # noqa: ARG001 (TransformerLens passes it by keyword)
        return value * 0

    given = inputs()
    with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ids = given.pop("input")
        found = bridge.run_with_hooks(ids, fwd_hooks=[(hook, zero)] if hook else [], **given)
    return found, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("name", ["hook_pattern", "hook_attn_scores"])
def test_edits_of_attention_are_discarded_there(bridge, name):
    plain, _ = logits(bridge)
    edited, told = logits(bridge, f"blocks.1.attn.{name}")
    assert torch.equal(plain, edited)
    assert any("returned a modified tensor" in text for text in told)
    acting, _ = logits(bridge, "blocks.1.attn.hook_z")
    assert nodes.apart(plain, acting) > 0.1


def test_scores_are_a_copy_of_the_pattern_and_rotated_queries_absent_there(bridge):
    given = inputs()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, cache = bridge.run_with_cache(given.pop("input"), **given)
    scores, pattern = cache["attn_scores", 1], cache["pattern", 1]
    assert torch.equal(scores, pattern)
    assert nodes.apart(pattern.sum(-1), torch.ones(())) < 1e-5
    assert "blocks.1.attn.hook_rot_q" not in cache.cache_dict
