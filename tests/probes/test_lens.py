"""Logit lens and logit attribution, against plain transformers with eager attention."""

from functools import cache

import pytest
import torch

import vsink_interp as vi
from tests import nodes, tiny
from vsink_interp import probes


@cache
def plain():
    """Residual streams before each layer and after the last, and patterns, of the tiny model."""
    model = tiny.hf_model(attention="eager")
    kept = []
    handle = model.model.language_model.layers[-1].register_forward_hook(
        lambda *seen: kept.append(seen[2])
    )
    with torch.no_grad():
        made = model(**tiny.encode().inputs, output_hidden_states=True, output_attentions=True)
    handle.remove()
    return model, [*made.hidden_states[:-1], kept[0]], made.attentions, made.logits


def said(resid):
    """Probabilities of all words for residual vectors."""
    model = plain()[0]
    with torch.no_grad():
        return model.lm_head(model.model.language_model.norm(resid)).softmax(-1)


def image_rows():
    return tiny.encode().layout.mask("image")[0]


@pytest.mark.parametrize(("at", "shift"), [("post", 1), ("pre", 0)])
def test_the_lens_is_norm_unembedding_and_softmax(at, shift):
    probe = probes.LogitLens(top_k=4, at=at)
    run = tiny.lmm().run(tiny.encode(), graph=probe)
    record, words = run[probe], run[probe, "word"]
    assert record.axes == words.axes == ("layer", "batch", "query", "rank")
    for layer in range(tiny.LAYERS):
        want = said(plain()[1][layer + shift])[:, image_rows()].topk(4)
        assert torch.equal(words.values[layer], want.indices)
        assert nodes.apart(record.values[layer], want.values) < 1e-5
        texts = tiny.tokenizer().convert_ids_to_tokens(want.indices[0, 3].tolist())
        assert words.at(layer=layer).words[0, 3].tolist() == texts
    assert float(record.values.std()) > 0.01


def test_words_are_a_record_of_their_own(tmp_path):
    """Also selected, as a table, saved, and where a row does not count."""
    lens = probes.LogitLens("query", layers="2:", top_k=2)
    run = tiny.lmm().run(tiny.batch("short", "one image"), graph=lens)
    words = run[lens, "word"]
    rows = words.labels("query")
    taken = words.sel(layer=[3], query=rows[-2:])
    assert taken.words.shape == (1, 2, 2, 2)
    said = tiny.tokenizer().convert_ids_to_tokens(int(words.values[1, 1, -1, 0]))
    assert taken.words[0, 1, 1, 0] == words.at(layer=3, query=rows[-1], rank=0).words[1] == said
    assert words.words[0, 0, 0, 0] == ""  # a row of padding
    assert run.of(words, "query").axes == ("layer", "batch", "token", "rank")
    run.save(tmp_path)
    again = vi.Run.load(tmp_path)
    assert (again[lens, "word"].words == words.words).all()
    assert torch.equal(again[probes.LogitLens].values, run[lens].values)
    with pytest.raises(vi.ResultError, match="holds numbers, not words"):
        _ = run[lens].words
    with pytest.raises(vi.ResultError, match="no part 'id'"):
        _ = run[lens, "id"]
    pytest.importorskip("pandas")
    assert words.to_pandas().word.isin(tiny.tokenizer().get_vocab()).all()


def test_in_the_middle_of_a_block_the_lens_reads_what_the_second_norm_is_given():
    model, kept = plain()[0], []
    norm = model.model.language_model.layers[2].post_attention_layernorm
    handle = norm.register_forward_pre_hook(lambda *seen: kept.append(seen[1][0]))
    with torch.no_grad():
        model(**tiny.encode().inputs)
    handle.remove()
    probe = probes.LogitLens(layers=2, top_k=3, at="mid")
    run = tiny.lmm().run(tiny.encode(), graph=probe)
    want = said(kept[0])[:, image_rows()].topk(3)
    assert torch.equal(run[probe, "word"].values[0], want.indices)
    assert nodes.apart(run[probe].values[0], want.values) < 1e-5
    assert nodes.apart(said(kept[0]), said(plain()[1][3])) > 1e-3


def test_at_the_last_block_the_lens_is_the_model_s_prediction():
    probe = probes.LogitLens("query", -1, top_k=1)
    run = tiny.lmm().run(tiny.encode(), graph=probe)
    rows = list(run[probe].labels("query"))
    want = plain()[3].softmax(-1)[:, rows].max(-1)
    assert torch.equal(run[probe, "word"].values[0, :, :, 0], want.indices)
    assert nodes.apart(run[probe].values[0, :, :, 0], want.values) < 1e-5


def test_the_probability_of_words_is_that_of_the_whole_vocabulary():
    word = tiny.tokenizer().convert_ids_to_tokens(9)
    probe = probes.TokenProbability("all", (1, 3), tokens=(word, 30))
    record = tiny.lmm().run(tiny.encode(), graph=probe)[probe]
    for i, layer in enumerate((1, 3)):
        want = said(plain()[1][layer + 1])[..., [9, 30]]
        assert nodes.apart(record.values[i], want) < 1e-5
    assert record.axes == ("layer", "batch", "query", "word")
    assert record.labels("word") == (word, 30)
    assert vi.EditGraph.from_json(probe.to_json()) == vi.EditGraph(probe)
    assert float(record.values.max()) > 0.05


def test_rows_beyond_one_chunk_agree(monkeypatch):
    from vsink_interp.probes import lens

    probe = probes.LogitLens("all", top_k=2)
    whole = tiny.lmm().run(tiny.encode(), graph=probe)[probe].values
    monkeypatch.setattr(lens, "CHUNK", 5)
    assert nodes.apart(tiny.lmm().run(tiny.encode(), graph=probe)[probe].values, whole) < 1e-6


def test_the_lens_follows_an_answer():
    lmm, probe = tiny.lmm(), probes.LogitLens("generated", top_k=1)
    run = lmm.generate(tiny.encode(), graph=probe, max_new_tokens=4)
    assert run[probe].values.shape == (tiny.LAYERS, 1, 3, 1)
    assert run[probe].values[-1, 0, :, 0].min() > 0


def test_the_lens_sees_the_stream_behind_an_edit():
    probe = probes.LogitLens("image", 2, top_k=1)
    flipped = vi.Fn("hook_resid_post", lambda x, hook: -x, layers=2)  # noqa: ARG005 (TL's call)
    run = tiny.lmm().run(tiny.encode(), graph=flipped | probe)
    want = said(-plain()[1][3])[:, image_rows()].max(-1)
    assert torch.equal(run[probe, "word"].values[0, :, :, 0], want.indices)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: probes.LogitLens(top_k=0), "at least one word"),
        (lambda: probes.LogitLens(top_k=True), "a whole number"),
        (lambda: probes.TokenProbability(tokens=()), "a tuple of words"),
        (lambda: probes.TokenProbability(tokens=(True,)), "or of their ids"),
        (lambda: probes.Projection(hook="attn.hook_z", direction=(1.0,)), "is not one of"),
        (lambda: probes.LogitAttribution(direction=(1.0,), groups=()), "groups is a tuple"),
    ],
)
def test_what_is_senseless_is_refused(make, message):
    with pytest.raises(vi.NotationError, match=message):
        make()


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        (probes.LogitLens(top_k=65), "there are 64 words"),
        (probes.TokenProbability(tokens=(64,)), "there are 64 words"),
        (probes.LogitAttribution(direction=(1.0,)), "has 1 coordinates, the model 64"),
        (probes.Projection(hook="hook_mlp_out", direction=(1.0,)), "has 1 coordinates"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(probe, message):
    with pytest.raises(vi.NotationError, match=message):
        tiny.lmm().run(tiny.encode(), graph=probe)


def test_attribution_by_loop_over_heads_rows_and_keys():
    torch.manual_seed(3)
    direction = torch.randn(tiny.WIDTH)
    probe = probes.LogitAttribution.along(direction, "all")
    found = tiny.lmm().run(tiny.encode(), graph=probe)[probe].values
    model, resid, patterns, _ = plain()
    tokens, size = tiny.encode().layout, tiny.WIDTH // tiny.HEADS
    for layer in (0, 3):
        block = model.model.language_model.layers[layer]
        with torch.no_grad():
            value = block.self_attn.v_proj(block.input_layernorm(resid[layer]))[0]
        for head in range(tiny.HEADS):
            kv = head // (tiny.HEADS // tiny.KV_HEADS)
            out = block.self_attn.o_proj.weight[:, head * size : (head + 1) * size]
            adds = (value[:, kv * size : (kv + 1) * size] @ out.T @ direction).detach()
            for place, segment in enumerate(probe.groups):
                keys = tokens.mask(segment)[0]
                want = patterns[layer][0, head][:, keys] @ adds[keys]
                assert nodes.apart(found[layer, 0, head, :, place], want) < 1e-4
    assert float(found[..., 2].abs().max()) > 0.1


def test_a_projection_is_the_dot_product():
    direction = torch.linspace(-1, 1, tiny.WIDTH)
    probe = probes.Projection.along(direction, "hook_resid_pre", "all")
    found = tiny.lmm().run(tiny.encode(), graph=probe)[probe].values
    for layer in range(tiny.LAYERS):
        assert nodes.apart(found[layer], plain()[1][layer] @ direction) < 1e-4
    assert float(found.abs().max()) > 1
