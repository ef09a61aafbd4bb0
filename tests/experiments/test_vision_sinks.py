"""V-sinks and L-sinks, planted one by one in the tiny models."""

import numpy as np
import pytest
import torch

import vsink_interp as vi
from tests import tiny
from tests.families.test_families import TINY
from vsink_interp import experiments as ex
from vsink_interp.families.tiny import build

V_PATCH, L_PATCH, DIM = 4, 7, 9
ASSET, PROMPT = tiny.PROMPTS["one image"]


def plant_in_tower(value, hook):  # noqa: ARG001 (TransformerLens's call)
    value[:, 1 + V_PATCH, DIM] = 60.0  # after the class token


def plant_in_decoder(value, hook):
    place = int(hook.site.keys("image")[0].nonzero()[0]) + L_PATCH
    value[:, place, 17] = 90.0


TOWER = vi.Fn("vision_encoder.blocks.{layer}.hook_resid_post", plant_in_tower, layers=1)
DECODER = vi.Fn("hook_resid_post", plant_in_decoder, layers=0)


def wired(strength):
    """A tiny LLaVA whose projector writes the planted coordinate into a sink dimension."""
    lmm = tiny.fresh()
    lmm.sinks = vi.SinkDims((3, 17), 6.0)
    projector = lmm.hf_model.model.multi_modal_projector
    with torch.no_grad():
        projector.linear_1.weight[0] = 0
        projector.linear_1.weight[0, DIM] = 1.0
        projector.linear_2.weight[3, 0] = strength
    return lmm


def tokens(mask):
    return np.flatnonzero(mask).tolist()


def test_nothing_planted_nothing_found():
    found = ex.vision_sinks(wired(0.0), ASSET, PROMPT)
    assert not found.v_sink.any()
    assert not found.l_sink.any()
    assert found.vision_dims == found.language_dims == ()


def test_an_outlier_of_the_encoder_is_a_v_sink_and_no_l_sink():
    found = ex.vision_sinks(wired(0.0), ASSET, PROMPT, graph=TOWER)
    assert tokens(found.v_sink) == [V_PATCH]
    assert found.vision_dims == (DIM,)
    assert not found.l_sink.any()
    assert "1 V-sinks" in str(found)


def test_norms_are_those_of_plain_transformers():
    lmm, kept = wired(0.0), []
    hook = lmm.hf_model.model.multi_modal_projector.register_forward_pre_hook(
        lambda *seen: kept.append(seen[1][0])
    )
    with torch.no_grad():
        lmm.hf_model(**lmm.encode(ASSET, PROMPT).inputs)
    hook.remove()
    found = ex.vision_sinks(lmm, ASSET, PROMPT)
    np.testing.assert_allclose(found.norm, kept[0][0].norm(dim=-1), rtol=1e-4)
    assert found.threshold == pytest.approx(2 * float(kept[0][0].norm(dim=-1).median()), rel=1e-4)


def test_a_sink_of_the_decoder_is_an_l_sink_and_no_v_sink():
    found = ex.vision_sinks(wired(0.0), ASSET, PROMPT, graph=DECODER)
    assert not found.v_sink.any()
    assert tokens(found.l_sink) == [L_PATCH]
    assert not found.from_vision.any()


def test_which_l_sinks_come_from_the_encoder():
    """Both planted, and the projector carries the encoder's outlier into a sink dimension."""
    found = ex.vision_sinks(wired(8.0), ASSET, PROMPT, graph=TOWER | DECODER)
    assert tokens(found.v_sink) == [V_PATCH]
    assert tokens(found.l_sink) == [V_PATCH, L_PATCH]
    assert tokens(found.from_vision) == tokens(found.both) == [V_PATCH]
    assert found.language_dims == (3,)
    assert found.share(found.l_sink) > found.share(found.v_sink) > 0
    assert found.share(np.ones_like(found.v_sink)) == pytest.approx(1)


def test_a_norm_of_ones_own():
    found = ex.vision_sinks(wired(0.0), ASSET, PROMPT, graph=TOWER, norm=59.0)
    assert (found.threshold, tokens(found.v_sink)) == (59.0, [V_PATCH])
    with pytest.raises(vi.LayoutError, match="every image token is a V-sink"):
        ex.vision_sinks(wired(0.0), ASSET, PROMPT, norm=0.0)
    with pytest.raises(vi.InputError, match="give one"):
        ex.vision_sinks(wired(0.0), ASSET, PROMPT, norm=59.0, ratio=3.0)


def test_attention_is_that_of_the_text_rows():
    lmm = wired(0.0)
    found, probe = ex.vision_sinks(lmm, ASSET, PROMPT), vi.probes.Pattern("all")
    run = lmm.run(ASSET, PROMPT, probe)
    rows, keys = (run.layout.mask(group)[0] for group in ("query", "image"))
    want = run[probe].values[:, 0].mean(1)[:, rows].mean(1)[:, keys]
    np.testing.assert_allclose(found.attention, want, atol=1e-6)


@pytest.mark.parametrize("name", ["Qwen2-VL", "Qwen2.5-VL"])
def test_merged_and_reordered_patches_belong_to_their_token(name):
    """A vector planted where the projector takes patch 6 shows at the token made from it."""
    family = next(family for key, family in TINY.items() if key == name)
    config, processor = family.tiny()
    lmm = vi.LMM(build(config, "sdpa", torch.float32), processor, sinks=vi.SinkDims((3, 17), 6.0))

    def plant(value, hook):  # noqa: ARG001
        value[:, 6, DIM] = 60.0

    graph = vi.Fn("vision_projector.hook_in", plant)
    plain = lmm.run(ASSET, PROMPT, vi.probes.Resid("image", 0, at="pre"))
    edited = lmm.run(ASSET, PROMPT, graph | vi.probes.Resid("image", 0, at="pre"))
    streams = [next(iter(run.records.values())).values[0, 0] for run in (plain, edited)]
    changed = (streams[0] - streams[1]).abs().amax(-1) > 1e-6
    found = ex.vision_sinks(lmm, ASSET, PROMPT, graph=graph)
    assert changed.sum() == 1
    assert tokens(found.v_sink) == tokens(changed)


def test_the_toy_s_visual_sink_arises_in_its_language_model(sunk):
    found = ex.vision_sinks(sunk, vi.toy.scene(0).image, "describe the image")
    assert found.l_sink.sum() >= 1
    assert not found.v_sink.any()
    assert not found.from_vision.any()
    assert found.share(found.l_sink) > 0.3
