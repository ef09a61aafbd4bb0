"""Lens, attribution and V-sinks on a tiny model of every family."""

import numpy as np
import pytest
import torch

import vsink_interp as vi
from tests.families.test_families import PROMPTS, SHOWN, TINY, encoded, lmm, logits
from vsink_interp import experiments as ex, probes

every_family = pytest.mark.parametrize("name", TINY)
with_image_tokens = pytest.mark.parametrize("name", SHOWN)
NO_SUM_OF_HEADS = {
    "GLM-4.1V": "not the sum of its heads",
    "Gemma 3": "not the sum of its heads",
    "Mllama": r"layers \(0, 2\) alone have heads",
    "Qwen3.5": r"layers \(1, 3\) alone have heads",
}


@every_family
def test_the_lens_at_the_last_block_is_the_model_s_prediction(name):
    model, encoding = lmm(name), encoded(name, "one")
    probe = probes.LogitLens("query", -1, top_k=1)
    run = model.run(encoding, graph=probe)
    wanted = logits(model.hf_model, encoding).float().softmax(-1)
    best = wanted[:, list(run[probe].labels("query"))].max(-1)
    assert torch.equal(run[probe].values[0, ..., 0, 0].long(), best.indices)
    assert float((run[probe].values[0, ..., 0, 1] - best.values).abs().max()) < 1e-4


@with_image_tokens
def test_words_stand_on_the_grid_of_the_whole_image(name):
    lens = ex.image_lens(lmm(name), *PROMPTS["wide"], top_k=2)
    assert lens.probability.shape[1] == lens.span.grid[0] * lens.span.grid[1]
    assert lens.probability.std() > 0


@every_family
def test_parts_sum_to_the_logit_or_the_family_is_refused(name):
    model, encoding = lmm(name), encoded(name, "one")
    if name in NO_SUM_OF_HEADS:
        with pytest.raises(vi.CapabilityError, match=NO_SUM_OF_HEADS[name]):
            ex.logit_attribution(model, *PROMPTS["one"], 9)
        return
    parts = ex.logit_attribution(model, *PROMPTS["one"], 9, against=20)
    last = logits(model.hf_model, encoding)[0, -1].float()
    want = float(last[9] - last[20])
    assert parts.total + parts.elsewhere == pytest.approx(want, abs=1e-3 * max(1, abs(want)))
    assert np.abs(parts.heads).max() > 1e-4
    assert parts.elsewhere == pytest.approx(0, abs=1e-3 * max(1, abs(want))), name


@with_image_tokens
def test_norms_of_the_encoder_belong_to_tokens_or_the_family_is_refused(name):
    try:
        found = ex.vision_sinks(lmm(name), *PROMPTS["one"], ratio=1.5)
    except vi.CapabilityError as error:
        assert name in {"GLM-4.1V", "Gemma 3", "Idefics3", "Mistral 3", "SmolVLM"}, error
        assert "patches of its own" in str(error)
        return
    patches = ~np.isnan(found.norm)
    assert patches.sum() == sum(place is not None for place in found.span.places)
    assert found.norm[patches].std() > 0
