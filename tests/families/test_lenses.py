"""Lens, attribution and V-sinks on a tiny model of every family."""

import numpy as np
import pytest
import torch

import vsink_interp as vi
from tests.families.test_families import PROMPTS, SHOWN, TINY, encoded, lmm, logits
from vsink_interp import experiments as ex, probes

every_family = pytest.mark.parametrize("name", TINY)
UNTAKEN = {"Ovis2": "a mixture of visual words enters"}
"""Families whose projector takes no features of the tower, and so has no V-sinks."""
with_image_tokens = pytest.mark.parametrize("name", SHOWN)
TAKEN = "vision_projector.hook_in"
NO_SUM_OF_HEADS = {
    "Aya Vision": "Cohere2LayerNorm is not an RMS norm",
    "Cohere2 Vision": "Cohere2LayerNorm is not an RMS norm",
    "GLM-4.1V": "not the sum of its heads",
    "Gemma 3": "not the sum of its heads",
    "Gemma 4": "not the sum of its heads|added behind the MLP",
    "Llama 4": "only layers",
    "Mllama": r"only layers \(0, 2\) have heads",
    "Qwen3.5": r"only layers \(1, 3\) have heads",
}


@every_family
def test_the_lens_at_the_last_block_is_the_model_s_prediction(name):
    model, encoding = lmm(name), encoded(name, "one")
    probe = probes.LogitLens("query", -1, top_k=1)
    run = model.run(encoding, graph=probe)
    wanted = logits(model.hf_model, encoding).float().softmax(-1)
    best = wanted[:, list(run[probe].labels("query"))].max(-1)
    assert torch.equal(run[probe, "word"].values[0, ..., 0], best.indices)
    assert float((run[probe].values[0, ..., 0] - best.values).abs().max()) < 1e-4


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
def test_norms_of_the_encoder_belong_to_tokens(name):
    if name in UNTAKEN:
        with pytest.raises(vi.CapabilityError, match=UNTAKEN[name]):
            ex.vision_sinks(lmm(name), *PROMPTS["one"])
        return
    found = ex.vision_sinks(lmm(name), *PROMPTS["one"], ratio=1.5)
    patches = ~np.isnan(found.norm)
    assert patches.sum() == sum(place is not None for place in found.span.places)
    assert found.norm[patches].std() > 0


@pytest.mark.parametrize("name", [name for name in SHOWN if name not in UNTAKEN])
@pytest.mark.parametrize("prompt", ["one", "wide", "high"])
def test_a_patch_belongs_to_the_token_that_it_changes(name, prompt):
    """A vector planted among what the projector takes changes one token, whose norm is then the
    largest, whether the family merges patches in runs, in squares, or not at all.
    """
    model, encoding = lmm(name), encoded(name, prompt)
    entering, given = (probes.Resid("image", 0, at="pre"), probes.Activation(TAKEN))
    run = model.run(encoding, graph=entering | given)
    image = encoding.layout.mask("image")[0].nonzero().flatten().tolist()
    taken = run[given].values
    places = [*np.ndindex(*taken.shape[:-1])]
    for place in {places[3], places[len(places) // 2], places[-2]}:

        def plant(value, hook, place=place):  # noqa: ARG001
            value[place] = value[place] * -40

        planted = vi.Fn(TAKEN, plant)
        edited = model.run(encoding, graph=planted | entering)
        apart = (run[entering].values - edited[entering].values)[0, 0].abs().amax(-1)
        changed = apart[run[entering].places("query", image)] > 1e-5
        if not changed.any():  # cut away with the padding of its tile
            continue
        assert changed.sum() == 1
        found = ex.vision_sinks(model, *PROMPTS[prompt], graph=planted)
        assert np.nanargmax(found.norm) == int(changed.nonzero())
