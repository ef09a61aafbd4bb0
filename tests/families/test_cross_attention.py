"""Images that are no tokens, read in layers of cross-attention: Mllama."""

import pytest
import torch

import vsink_interp as vi
from tests.families.plain import decoder_layers, hooked
from tests.families.test_families import PROMPTS, SINKS, apart, encoded, lmm, logits
from tests.restated import phi
from vsink_interp import probes
from vsink_interp.edits import AddScores, Contrast, Fn

NAME, SELF, CROSS = "Mllama", (0, 2), (1, 3)


def none(value, hook):
    del hook
    return 0 * value


ABOUT_THE_IMAGE = [
    vi.Knockout("image -> query", SELF),
    vi.VAR(layers=SELF),
    vi.DropKeys("image", SELF),
    probes.SinkValue("image"),
    Contrast("noise"),
]


@pytest.mark.parametrize("node", ABOUT_THE_IMAGE, ids=lambda node: type(node).__name__)
def test_the_image_is_no_segment_and_it_is_said_why(node):
    with pytest.raises(vi.LayoutError, match=r"no image token.*through cross-attention"):
        lmm(NAME).generate(encoded(NAME, "one"), graph=node, max_new_tokens=2)


def test_blocks_of_cross_attention_are_refused_by_name_where_nothing_is_defined():
    model, encoding = lmm(NAME), encoded(NAME, "one")
    for node in (
        probes.Pattern(),
        vi.Knockout("bos -> query", 1),
        Fn("attn.hook_z", none, layers=3),
    ):
        with pytest.raises(
            vi.CapabilityError, match=r"layer \d: cross attention has.*layers='0,2'"
        ):
            model.run(encoding, graph=node)
    with pytest.raises(vi.CapabilityError, match=r"cross attention has no such module.*'0,2'"):
        model.run(encoding, graph=Fn("hook_attn_out", none))
    assert model.layers_with("hook_resid_mid") == (0, 1, 2, 3)


def test_the_placeholder_of_an_image_is_a_separator():
    layout = encoded(NAME, "two").layout
    places = encoded(NAME, "two").inputs["input_ids"] == lmm(NAME).hf_model.config.image_token_id
    assert int(places.sum()) == 2
    assert torch.equal(layout.mask("separator"), places)
    assert layout.images == ((),)


def test_sink_values_are_those_of_the_residual_stream_in_every_layer():
    model, encoding = lmm(NAME), encoded(NAME, "one")
    probe, stream = probes.SinkValue("all"), probes.Resid("all", at="pre")
    run = model.run(encoding, graph=probe | stream)
    for layer in range(4):
        wanted = phi(run[stream].values[layer], SINKS.dims)
        assert abs(run[probe].values[layer].numpy() - wanted).max() < 1e-4


def test_a_sink_of_bos_is_looked_for_in_blocks_that_attend_to_the_prompt():
    report = vi.find_sink_dims(lmm(NAME), share=0.02)
    assert set(report.layers) <= set(SELF)
    assert 0 < report.bos_mass < 1


@pytest.mark.parametrize("layer", CROSS)
def test_the_residual_stream_of_cross_attention_acts(layer):
    """In the middle of a layer, where the branch and the stream must both see it."""
    model, encoding = lmm(NAME), encoded(NAME, "one")
    block = decoder_layers(model.hf_model)[layer]

    def roll(_, args):
        args[0].copy_(args[0].roll(1, -1))

    with hooked([block.post_attention_layernorm.register_forward_pre_hook(roll)]):
        theirs = logits(model.hf_model, encoding)
    edit = Fn("hook_resid_mid", lambda value, hook: value.roll(1, -1), layers=layer)  # noqa: ARG005
    assert apart(theirs, logits(model.hf_model, encoding)) > 0.1
    assert torch.equal(model.run(encoding, graph=edit).logits, theirs)


def test_what_the_projector_gives_can_be_taken_away():
    model, encoding = lmm(NAME), encoded(NAME, "two")
    projector = model.hf_model.model.multi_modal_projector
    with hooked([projector.register_forward_hook(lambda *args: 2 * args[-1].roll(1, -1))]):
        theirs = logits(model.hf_model, encoding)
    hook = "vision_projector.hook_out"
    edit = Fn(hook, lambda value, hook: 2 * value.roll(1, -1))  # noqa: ARG005
    probe = probes.Activation(hook)
    assert apart(theirs, logits(model.hf_model, encoding)) > 1e-3
    assert torch.equal(model.run(encoding, graph=edit).logits, theirs)
    record = model.run(encoding, graph=probe)[probe]
    assert record.axes == ("image", "patch", "d_model")
    assert record.values.shape == (2, 4 * 5, 64)


def test_an_answer_read_in_one_pass_gives_the_logits_of_its_steps():
    model, encoding = lmm(NAME), encoded(NAME, "two")
    edit = AddScores("bos", 2.0, layers=SELF)
    run = model.generate(encoding, graph=edit, max_new_tokens=5)
    whole = model.run(encoding.with_answer(run.generated[:, :-1]), graph=edit)
    seen = run.logits.isfinite()
    assert apart(whole.logits[:, -5:][seen], run.logits[seen]) < 1e-4


def test_without_an_image_cross_attention_layers_are_skipped_and_refused():
    model, encoding = lmm(NAME), encoded(NAME, "text")
    with pytest.raises(vi.LayoutError, match=r"layer 1, cross-attention.*layers='0,2'"):
        model.run(encoding, graph=probes.Resid("all"))
    probe = probes.Resid("all", SELF, at="pre")
    with torch.no_grad():
        theirs = model.hf_model(**encoding.inputs, output_hidden_states=True).hidden_states
    assert torch.equal(model.run(encoding, graph=probe)[probe].values[0], theirs[0])
    assert torch.equal(model.run(encoding, graph=probe)[probe].values[1], theirs[1])


def test_a_batch_of_unequal_numbers_of_images_is_refused():
    """In transformers an answer depends on what the images of others are filled up to."""
    model = lmm(NAME)
    (one, first), (two, second) = PROMPTS["one"], PROMPTS["two"]
    with pytest.raises(vi.InputError, match="different numbers of images"):
        model.encode([one, two], [first, second])
    with pytest.raises(vi.InputError, match="different numbers of images"):
        model.encode([one, None], [first, "count"])
    texts = [*encoded(NAME, "one").prompts, *encoded(NAME, "two").prompts]
    inputs = model.processor(
        text=texts, images=[[one], two], padding=True, padding_side="left", return_tensors="pt",
        add_special_tokens=False,
    )  # fmt: skip
    with torch.no_grad():
        together = model.hf_model(**inputs).logits[0, -1]
    assert apart(together, logits(model.hf_model, encoded(NAME, "one"))[0, -1]) > 1e-3


def test_a_prompt_in_its_final_form_begins_with_bos():
    with pytest.raises(vi.InputError, match=r"must begin with '<\|begin_of_text\|>'"):
        lmm(NAME).encode(None, "count", chat=False)
