"""The forms themselves: where hook points are said to be, and how a file becomes a family."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import vsink_interp as vi
from tests import tiny
from tests.families.test_families import PROMPTS, TINY, lmm
from vsink_interp.families import FAMILIES, layer_taps_of
from vsink_interp.families.infer import counted_spans
from vsink_interp.families.tiny import build
from vsink_interp.graph.hook_points import HOOKS


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_a_family_says_where_every_hook_point_is_or_why_it_has_none(family):
    for point in HOOKS:
        known = family.vision_taps if point.stack == "vision_encoder.blocks" else None
        if known is not None:
            assert (point.name in known) != (point.template in family.refused)


def test_families_do_not_share_model_types():
    kinds = [kind for family in FAMILIES for kind in family.model_types]
    assert len(kinds) == len(set(kinds)) > 10
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


class Attention:
    q_norm = None


class NormedBlock:
    self_attn = Attention()


class SandwichedBlock:
    pre_feedforward_layernorm = None


def test_norms_that_are_not_known_are_not_guessed():
    assert "attn.hook_q" in layer_taps_of("llama", object())
    assert "attn.hook_q" not in layer_taps_of("llama", NormedBlock())
    assert layer_taps_of("qwen3", NormedBlock())["attn.hook_q"].module == "self_attn.q_proj"
    assert layer_taps_of("gemma2", SandwichedBlock())["hook_attn_out"].module == (
        "post_attention_layernorm"
    )


def test_a_hook_point_that_a_family_lacks_is_refused_with_the_reason():
    from tests.families.test_families import encoded, lmm

    probe = vi.probes.Activation("vision_encoder.blocks.{layer}.hook_attn_out")
    with pytest.raises(vi.CapabilityError, match="scaled after its module"):
        lmm("InternVL").run(encoded("InternVL", "one"), graph=probe)
    assert probe.point.template in tiny.lmm().hooks


def test_the_overlay_of_a_tiled_image_draws_the_view_of_it_all():
    from matplotlib import pyplot

    from tests.families.test_families import PROMPTS, encoded, lmm

    for name in ("LLaVA-NeXT", "InternVL"):
        run = lmm(name).generate(
            encoded(name, "wide"), graph=vi.probes.AttentionMaps(), max_new_tokens=3
        )
        assert len(run.layout.images[0][0].views) > 1
        figure = vi.plot.overlay(run, PROMPTS["wide"][0], words=[0])
        shape = figure.axes[0].images[-1].get_array().shape[:2]
        assert shape == run.layout.images[0][0].grid
        pyplot.close(figure)


def test_no_loss_is_asked_for():
    """PaliGemma's processor adds labels, with which transformers computes a loss as well."""
    lmm = vi.LMM.tiny("PaliGemma")
    encoding = lmm.encode(tiny.image(), "is it red")
    raw = lmm.processor(text=["<image> is it red"], images=[tiny.image()], return_tensors="pt")
    assert "labels" in raw
    assert "labels" not in encoding.inputs
    assert lmm.hf_model(**encoding.inputs).loss is None


@pytest.mark.parametrize(
    ("ids", "alone", "grids"),
    [
        ([9, 9, 1, 9, 9, 9, 9], ["99", "9999"], [2, 4]),
        ([1, 9, 9, 9, 9, 9, 9], ["999", "999"], [3, 3]),
        ([9, 1, 9, 1, 9, 9, 9], None, [5]),
        ([1, 9, 9, 9, 9, 9, 9], ["99", "9999"], [2, 4]),
        ([9, 9, 8, 9, 9, 9, 9, 9, 9], ["9989", "99999"], [3, 5]),  # a row ends in 8
        ([1, 1, 9, 9, 9, 9, 9], ["99", "9999"], None),  # fewer, where there are several
        ([9, 9, 9, 9, 1, 1, 1], ["9999", ""], None),
    ],
)
def test_an_inferred_family_does_not_guess_whose_tokens_are_whose(ids, alone, grids):
    """Each image's tokens are those that the processor makes of it alone, or none are said."""
    images = [Image.new("RGB", (8, 8 + i)) for i in range(len(alone or "1"))]
    inputs = {"input_ids": torch.tensor([ids])}
    config = SimpleNamespace(image_token_id=9)

    class Processor:
        image_token = "<image>"

        def __call__(self, text, images, return_tensors):
            assert (text, return_tensors) == (["<image>"], "pt")
            row = [int(token) for token in alone[images[0].height - 8]]
            return {"input_ids": torch.tensor([[1, *row]])}

    processor = Processor() if alone else None
    if grids is None:
        with pytest.raises(vi.CapabilityError, match="not known for an inferred family"):
            counted_spans(config, processor, images, inputs)
        return
    found = [span.grid for span in counted_spans(config, processor, images, inputs)]
    assert found == [(1, count) for count in grids]


def test_hook_points_beside_norms_that_are_not_known_are_left_out():
    """GLM-4 normalises what attention and MLP add; its own form says so, and nothing else does."""
    form = next(family for family in FAMILIES if family.name == "GLM-4.1V")
    config, _ = form.tiny()
    layer = build(config).get_submodule(form.layers)[0]
    found = layer_taps_of("glm4v_text", layer)
    assert not {"hook_attn_out", "hook_resid_mid", "hook_mlp_out"} & set(found)
    assert {"hook_resid_pre", "attn.hook_q", "hook_resid_post"} <= set(found)
    plain = tiny.hf_model().model.language_model.layers[0]
    assert "hook_attn_out" in layer_taps_of("some_llama", plain)


@pytest.mark.parametrize("name", TINY)
def test_a_prompt_without_an_image_is_taken_or_refused(name):
    """Alone, and in a batch with one that has an image."""
    model, family = lmm(name), TINY[name]
    text = PROMPTS["text"][1]
    if family.text_alone:
        layout = model.encode(None, text).layout
        assert not layout.mask("image").any()
        return
    for image, prompt in ((None, text), ([PROMPTS["one"][0], None], [text, text])):
        with pytest.raises(vi.InputError, match=f"{name} takes no prompt without an image"):
            model.encode(image, prompt)
    with pytest.raises(vi.InputError, match="no prompt without an image"):
        model.run(*PROMPTS["one"], vi.Contrast("none"))
