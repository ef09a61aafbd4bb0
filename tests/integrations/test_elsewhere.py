"""What docs/transformer-lens.md says of TransformerLens: edits of attention on Qwen-VL are lost."""

import warnings

import pytest
import torch

import vsink_interp as vi
from tests import nodes
from tests.families.test_families import TINY, encoded, lmm
from tests.integrations.conftest import boot
from vsink_interp.families.tiny import build

FAMILY = "Qwen2.5-VL"


@pytest.fixture(scope="module")
def bridge(tmp_path_factory):
    pytest.importorskip("transformer_lens")
    pytest.importorskip("torchvision")
    config, processor = TINY[FAMILY].tiny()
    folder = tmp_path_factory.mktemp("qwen")
    return boot(build(config, "eager", torch.float32), folder, processor.tokenizer)


def inputs():
    given = dict(encoded(FAMILY, "one").inputs)
    return given | {"input": given.pop("input_ids")}


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


def test_they_act_here():
    """The same function on the same model: without the pattern a layer's attention adds nothing."""
    model, encoding = lmm(FAMILY), encoded(FAMILY, "one")

    def zero(value, hook):  # noqa: ARG001
        return value * 0

    added = vi.probes.Activation("hook_attn_out", 1)
    run = model.run(encoding, graph=vi.Fn("attn.hook_pattern", zero, layers=1) | added)
    assert nodes.apart(model.run(encoding).logits, run.logits) > 0.01
    assert float(run[added].values.abs().max()) == 0

    def soften(value, hook):  # noqa: ARG001
        return value * 0.1

    scores = model.run(encoding, graph=vi.Fn("attn.hook_attn_scores", soften, layers=1))
    assert nodes.apart(model.run(encoding).logits, scores.logits) > 0.001


def test_scores_are_a_copy_of_the_pattern_and_rotated_queries_absent_there(bridge):
    given = inputs()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, cache = bridge.run_with_cache(given.pop("input"), **given)
    scores, pattern = cache["attn_scores", 1], cache["pattern", 1]
    assert torch.equal(scores, pattern)
    assert nodes.apart(pattern.sum(-1), torch.ones(())) < 1e-5
    assert "blocks.1.attn.hook_rot_q" not in cache.cache_dict
