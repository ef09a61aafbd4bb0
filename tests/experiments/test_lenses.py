"""Words over patches, and logits split into parts, against plain transformers."""

import numpy as np
import pytest
import torch

import vsink_interp as vi
from tests import tiny
from vsink_interp import experiments as ex


@pytest.fixture(scope="module")
def scene():
    return vi.toy.scene(3)  # a white circle, a red cross, a blue circle, a cyan and a green diamond


def test_words_of_patches_are_those_of_plain_transformers(sunk, scene):
    lens = ex.image_lens(sunk, scene.image, "describe the image", layers="2:5", top_k=3)
    encoding = sunk.encode(scene.image, "describe the image")
    with torch.no_grad():
        made = sunk.hf_model(**encoding.inputs, output_hidden_states=True)
        inner = sunk.hf_model.model.language_model
        logits = sunk.hf_model.lm_head(inner.norm(made.hidden_states[4]))
    image = encoding.layout.mask("image")[0]
    best = logits[0, image].softmax(-1).topk(3)
    tokenizer = sunk.processor.tokenizer
    assert lens.layers == (2, 3, 4)
    assert lens.words[1] == tuple(
        tuple(tokenizer.convert_ids_to_tokens(row)) for row in best.indices.tolist()
    )
    np.testing.assert_allclose(lens.probability[1], best.values, atol=1e-5)
    assert lens.count(3)[0][1] > lens.count(3)[-1][1]


def test_a_patch_says_the_colour_of_its_object(sunk, scene):
    """On the toy: the patch in which the object of a colour lies is the one read as the colour."""
    words = ("green", "blue", "cyan")
    lens = ex.word_lens(sunk, scene.image, "describe the image", words)
    assert lens.probability.shape == (3, sunk.n_layers, lens.span.size)
    assert (lens.confidence > 0.3).all()
    pixels = np.asarray(scene.image, dtype=float)
    pure = {"green": (-1, 1, -1), "blue": (-1, -1, 1), "cyan": (-1, 1, 1)}
    for word, map_ in zip(words, lens.probability, strict=True):
        patch = int(map_.max(0).argmax())
        left, top, right, bottom = (round(x) for x in lens.span.patch_box(patch))
        tint = pixels @ np.array(pure[word])
        inside = tint[top:bottom, left:right].max()
        assert inside == pytest.approx(tint.max(), abs=40), word
    absent = ex.word_lens(sunk, scene.image, "describe the image", ["purple"])
    assert absent.confidence[0] < 0.3


def test_an_edit_acts_meanwhile(sunk, scene):
    cut = vi.Knockout("bos -> image")
    plain = ex.word_lens(sunk, scene.image, "describe the image", ["red"])
    edited = ex.word_lens(sunk, scene.image, "describe the image", ["red"], graph=cut)
    assert np.abs(plain.probability - edited.probability).max() > 0.01


@pytest.mark.parametrize("against", [None, "blue"])
def test_parts_sum_to_the_logit_of_plain_transformers(against):
    lmm = tiny.lmm()
    parts = ex.logit_attribution(lmm, *tiny.PROMPTS["one image"], "red", against=against)
    logits = tiny.plain(lmm, tiny.encode())[0, -1]
    ids = tiny.tokenizer().convert_tokens_to_ids(["red", "blue"])
    want = float(logits[ids[0]] - (logits[ids[1]] if against else 0))
    assert abs(want) > 0.1
    assert parts.total == pytest.approx(want, abs=1e-4)
    assert parts.logit == pytest.approx(want, abs=1e-4)
    assert parts.elsewhere == pytest.approx(0, abs=1e-4)
    np.testing.assert_allclose(parts.heads.sum(-1), parts.head_total, atol=1e-5)
    assert np.abs(parts.heads[..., parts.segments.index("image")]).max() > 1e-3
    assert (parts.token, parts.against) == ("red", against)


@pytest.mark.parametrize("row", [0, 1, -2])
def test_any_query_row_is_split_on_either_side_of_the_image(row):
    """The image stands in the middle, so that query rows are not the last rows of the prompt."""
    lmm, prompt = tiny.lmm(), "what <image> count"
    encoding = lmm.encode(tiny.image(), prompt)
    places = encoding.layout.mask("query")[0].nonzero().flatten()
    assert int(places[-1] - places[0]) >= len(places), "the query is in one piece"
    logits = tiny.plain(lmm, encoding)[0, places[row]]
    parts = ex.logit_attribution(lmm, tiny.image(), prompt, row=row)
    assert parts.token == tiny.tokenizer().decode([int(logits.argmax())]).strip()
    assert parts.logit == pytest.approx(float(logits.max()), abs=1e-4)
    assert parts.total == pytest.approx(float(logits.max()), abs=1e-4)


def test_a_row_that_is_not_there_is_refused():
    with pytest.raises(vi.InputError, match="query rows 0 to"):
        ex.logit_attribution(tiny.lmm(), *tiny.PROMPTS["one image"], "red", row=99)


def test_biases_have_their_own_part():
    lmm = tiny.fresh(attention_bias=True)
    with torch.no_grad():
        for layer in lmm.hf_model.model.language_model.layers:
            layer.self_attn.o_proj.bias.normal_()
    parts = ex.logit_attribution(lmm, *tiny.PROMPTS["one image"], "red")
    want = float(tiny.plain(lmm, tiny.encode())[0, -1][tiny.tokenizer().encode("red")[-1]])
    assert np.abs(parts.attention_bias).min() > 1e-3
    assert parts.total == pytest.approx(want, abs=1e-4)


def test_the_likeliest_word_is_split_by_default(sunk, scene):
    parts = ex.logit_attribution(sunk, scene.image, "what color is the cross?")
    run = sunk.run(scene.image, "what color is the cross?")
    assert parts.token == run.text
    assert parts.logit == pytest.approx(float(run.logits[0, -1].max()), abs=1e-3)
    heads = parts.top_heads(3)
    assert [abs(x) for *_, x in heads] == sorted((abs(x) for *_, x in heads), reverse=True)
    assert abs(heads[0][2]) == np.abs(parts.head_total).max()


def test_a_cut_flow_adds_nothing(sunk, scene):
    graph = vi.Knockout("image -> query")
    asked = (scene.image, "what color is the cross?", "red")
    cut = ex.logit_attribution(sunk, *asked, graph=graph)
    image = cut.segments.index("image")
    assert np.abs(ex.logit_attribution(sunk, *asked).heads[..., image]).max() > 0.1
    assert np.abs(cut.heads[..., image]).max() == 0
    assert cut.elsewhere == pytest.approx(0, abs=1e-3)


def test_what_an_edit_writes_to_the_stream_is_told_apart(sunk, scene):
    read = vi.readout(sunk)
    push = vi.edits.Steer.along(read.direction("red"), 3, scale=0.5)
    parts = ex.logit_attribution(sunk, scene.image, "describe the image", "red", graph=push)
    assert parts.elsewhere > 0.1
    assert parts.total + parts.elsewhere == pytest.approx(parts.logit, abs=1e-3)


def test_attention_that_is_not_the_sum_of_its_heads_is_refused(sunk, scene):
    def halve(value, hook):  # noqa: ARG001 (TransformerLens's call)
        return value * 0.5

    edit = vi.Fn("hook_attn_out", halve)
    with pytest.raises(vi.CapabilityError, match="not the sum of its heads"):
        ex.logit_attribution(sunk, scene.image, "describe the image", "red", graph=edit)
