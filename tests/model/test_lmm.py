"""LMM: loading, encoding, running, generating, and what it refuses."""

import sys
from dataclasses import replace

import pytest
import torch
from transformers import GenerationConfig, MistralConfig

import vsink_interp as vi
from tests import nodes, tiny
from tests.nodes import apart
from vsink_interp.graph.hook_points import forward_order
from vsink_interp.probes import AttentionMaps, Pattern, Resid, SegmentMass


def test_it_says_what_it_is():
    lmm = tiny.lmm()
    assert "LLaVA-1.5, layers=4, heads=4, d_model=64" in repr(lmm)
    assert (lmm.n_layers, lmm.n_heads, lmm.d_model) == (4, 4, 64)


def test_it_is_loaded_from_a_folder(tmp_path):
    tiny.lmm().hf_model.save_pretrained(tmp_path / "tiny")
    tiny.processor().save_pretrained(tmp_path / "tiny")
    for attention in ("sdpa", "eager"):
        loaded = vi.LMM.from_pretrained(tmp_path / "tiny", attn_implementation=attention)
        assert loaded.name == "tiny"
        assert not loaded.hf_model.training
        encoding = loaded.encode(*tiny.PROMPTS["two images"])
        assert str(encoding.layout) == str(tiny.encode("two images").layout)
        want = tiny.lmm(attention=attention).run(tiny.encode("two images"), graph=vi.VAR(rho=0.2))
        loaded.sinks = tiny.SINKS
        assert torch.equal(loaded.run(encoding, graph=vi.VAR(rho=0.2)).logits, want.logits)


def test_every_way_of_asking_is_the_same():
    lmm, (image, prompt) = tiny.lmm(), tiny.PROMPTS["one image"]
    edit = vi.Knockout("image -> query")
    want = lmm.run(image, prompt, edit).logits
    assert torch.equal(lmm.run(image, prompt, graph=[edit]).logits, want)
    assert torch.equal(lmm.run(lmm.encode(image, prompt), graph=vi.EditGraph(edit)).logits, want)
    assert apart(lmm.run(image, prompt).logits, want) > 0.1
    with pytest.raises(vi.InputError, match="already holds its prompt"):
        lmm.run(tiny.encode(), "what is this")
    with pytest.raises(vi.InputError, match="a prompt is missing"):
        lmm.run(image)


def test_text_is_one_string_or_one_per_prompt():
    lmm = tiny.lmm()
    one, many = (
        lmm.generate(tiny.encode(), max_new_tokens=3),
        lmm.generate(tiny.batch(), max_new_tokens=3),
    )
    assert isinstance(one.text, str)
    assert isinstance(many.text, list)
    assert many.text[0] == one.text
    best = tiny.plain(lmm, tiny.encode())[0, -1].argmax()
    assert lmm.run(tiny.encode()).text == tiny.tokenizer().decode([best], skip_special_tokens=True)


def ending(token):
    lmm = tiny.fresh()
    lmm.hf_model.generation_config.eos_token_id = token
    return lmm


@pytest.mark.parametrize(
    "edit", [None, vi.Knockout("image -> query generated", "1:"), vi.VAR(rho=0.2)]
)
def test_an_answer_that_ends_early_does_not_disturb_the_others(edit):
    graph = vi.EditGraph(*[edit] * bool(edit))
    free = tiny.lmm().generate(tiny.batch(), graph=graph, max_new_tokens=7)
    # A token that one answer holds early and another does not hold first.
    token = int(free.generated[2, 1])
    lmm = ending(token)
    run = lmm.generate(tiny.batch(), graph=graph, max_new_tokens=7)
    lengths = []
    for i, prompt in enumerate(tiny.PROMPTS):
        row = free.generated[i].tolist()
        lengths.append(row.index(token) + 1 if token in row else 7)
        assert run.generated[i, : lengths[i]].tolist() == row[: lengths[i]]
        assert apart(run.logits[i, : lengths[i]], free.logits[i, : lengths[i]]) < 2e-5
        assert int(run.layout.mask("generated")[i].sum()) == lengths[i]
        alone = tiny.encode(prompt)
        if edit and prompt == "text":
            continue  # alone, an edit of the image is refused there
        solo = lmm.generate(alone, graph=graph, max_new_tokens=7)
        assert solo.generated[0].tolist() == row[: lengths[i]]
    assert 2 in lengths
    assert max(lengths) > 2


@pytest.mark.parametrize("way", ["eos_token_id", "generation_config"])
def test_an_end_given_with_the_call_counts(way):
    free = tiny.lmm().generate(tiny.batch(), max_new_tokens=7)
    token = int(free.generated[2, 1])
    given = {"eos_token_id": token}
    if way == "generation_config":
        given = {
            way: GenerationConfig(
                eos_token_id=token, pad_token_id=0, suppress_tokens=list(range(5)), do_sample=False
            )
        }
    run = tiny.lmm().generate(tiny.batch(), max_new_tokens=7, **given)
    assert int(run.layout.mask("generated")[2].sum()) == 2
    assert (run.generated[2, 2:] == 0).all()


def test_sampling_is_passed_on():
    lmm, edit = tiny.lmm(), vi.Knockout("image -> query")
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        runs.append(lmm.generate(tiny.encode(), graph=edit, max_new_tokens=8, do_sample=True))
    assert torch.equal(runs[0].ids, runs[1].ids)
    assert not torch.equal(runs[0].ids, runs[2].ids)
    assert apart(runs[0].logits[:, 0], runs[2].logits[:, 0]) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 2},
        {"num_return_sequences": 2},
        {"assistant_model": 1},
        {"prompt_lookup_num_tokens": 2},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"cache_implementation": "quantized"},
        {"prefill_chunk_size": 4},
        {"guidance_scale": 1.5},
        {"past_key_values": object()},
        {"generation_config": GenerationConfig(num_beams=3)},
        {"generation_config": GenerationConfig(cache_implementation="static")},
    ],
    ids=lambda given: next(iter(given)),
)
def test_ways_of_decoding_that_edits_would_miss_are_refused(options):
    with pytest.raises(vi.CapabilityError, match="is not supported, only"):
        tiny.lmm().generate(tiny.encode(), max_new_tokens=3, **options)


def test_a_models_own_way_of_decoding_is_refused_too():
    lmm = tiny.fresh()
    lmm.hf_model.generation_config.num_beams = 4
    with pytest.raises(vi.CapabilityError, match="num_beams=4"):
        lmm.generate(tiny.encode(), max_new_tokens=3)


def test_an_empty_answer_cannot_be_asked_for():
    with pytest.raises(vi.InputError, match="at least 1"):
        tiny.lmm().generate(tiny.encode(), max_new_tokens=0)


def test_a_model_in_training_is_refused_if_it_drops():
    model = tiny.hf_model(attention_dropout=0.1).train()
    with pytest.raises(vi.CapabilityError, match=r"eval\(\)"):
        vi.LMM(model, tiny.processor())


def sliding(**text) -> vi.LMM:
    """A tiny LLaVA whose Mistral decoder sees the last six tokens."""
    config = tiny.config()
    old = config.text_config.to_dict()
    old.pop("model_type")
    config.text_config = MistralConfig(**old | {"sliding_window": 6} | text)
    torch.manual_seed(0)
    model = type(tiny.hf_model())._from_config(config, attn_implementation="eager").eval()
    model.generation_config.eos_token_id = None
    return vi.LMM(model, tiny.processor(), sinks=tiny.SINKS)


def test_in_a_sliding_window_keys_are_counted_from_the_first_token():
    """In decode the cache holds the window alone; the pattern lies where its tokens are."""
    lmm, probe = sliding(), Pattern()
    run = lmm.generate(tiny.encode(), graph=probe, max_new_tokens=5)
    plain = lmm.hf_model.generate(
        **tiny.encode().inputs, max_new_tokens=5, return_dict_in_generate=True,
        output_attentions=True, do_sample=False, pad_token_id=0,
    )  # fmt: skip
    assert torch.equal(run.ids, plain.sequences)
    rows = list(run[probe].labels("query"))
    for step in range(1, 5):
        row = tiny.encode().layout.length + step - 1
        for layer in range(lmm.n_layers):
            window = plain.attentions[step][layer][0, :, 0]
            assert window.shape[-1] == 6
            got = run[probe].values[layer, 0, :, rows.index(row)]
            # To rounding: the softmax runs over all tokens, of which the rest get zero.
            torch.testing.assert_close(got[:, row - 5 : row + 1], window, atol=1e-6, rtol=0)
            assert not got[:, : row - 5].any()
            assert not got[:, row + 1 :].any()


def test_a_kind_of_attention_without_a_pattern_is_refused_at_its_layers():
    lmm = sliding()
    lmm.hooked.kinds = ("linear_attention", *lmm.hooked.kinds[1:])
    lmm.hooked._lacking.clear()  # what was looked up when it was opened
    for node in (Pattern(), vi.Knockout("image -> query"), vi.VAR()):
        with pytest.raises(vi.CapabilityError, match=r"at layer 0: linear attention.*'1,2,3'"):
            lmm.run(tiny.encode(), graph=node)
    assert lmm.run(tiny.encode(), graph=Pattern(layers="1:")).records


def test_an_attention_without_a_mask_function_is_refused():
    lmm = tiny.fresh()
    lmm.hf_model.config.get_text_config()._attn_implementation_internal = "mine"
    with pytest.raises(vi.CapabilityError, match="load the model with"):
        lmm.run(tiny.encode(), graph=vi.Knockout("image -> query"))


def test_sink_dimensions_must_fit():
    with pytest.raises(vi.NotationError, match="beyond d_model = 64"):
        vi.LMM(tiny.hf_model(), tiny.processor(), sinks=vi.SinkDims((3, 64), 2.0))
    lmm = tiny.fresh()
    with pytest.raises(vi.NotationError, match="beyond d_model = 64"):
        lmm.sinks = vi.SinkDims((64,), 2.0)
    for dims, tau in (((), 2.0), ((-1,), 2.0), ((3,), 0.0)):
        with pytest.raises(vi.NotationError, match="at least one index"):
            vi.SinkDims(dims, tau)


def test_other_sinks_give_other_results():
    lmm = tiny.fresh()
    first = lmm.run(tiny.encode(), graph=vi.VAR(rho=0.2, min_image_mass=0.1)).logits
    lmm.sinks = vi.SinkDims((1, 9), 1.6)
    assert (
        apart(first, lmm.run(tiny.encode(), graph=vi.VAR(rho=0.2, min_image_mass=0.1)).logits)
        > 1e-3
    )


def test_vision_before_text_or_after_both_act_when_generating():
    """`generate` encodes images before it embeds the text, a forward pass after."""
    lmm, encoding = tiny.lmm(), tiny.encode()
    embed, project = nodes.FNS["hook_embed"], nodes.FNS["vision_projector.hook_out"]
    graph = embed | project | vi.VAR(rho=0.2, min_image_mass=0.1)
    run = lmm.generate(encoding, graph=graph, max_new_tokens=1)
    assert apart(run.logits[:, 0], lmm.run(encoding, graph=graph).logits[:, -1]) < 2e-5
    for part in (embed | project, embed, project):
        assert apart(run.logits, lmm.generate(encoding, graph=part, max_new_tokens=1).logits) > 1e-3


def test_a_hook_point_that_is_passed_by_is_told_not_dropped(monkeypatch):
    lmm, order = tiny.fresh(), forward_order
    base = sys.modules["vsink_interp.families.form"]
    monkeypatch.setattr(base, "forward_order", lambda *place: tuple(-x for x in order(*place)))
    graph = nodes.FNS["hook_embed"] | nodes.FNS["ln_final.hook_out"]
    with pytest.raises(vi.CapabilityError, match="did not reach hook_embed"):
        lmm.run(tiny.encode(), graph=graph)


def test_maps_of_samples_with_fewer_images_do_not_show_other_tokens():
    probe = AttentionMaps()
    got = tiny.lmm().run(tiny.batch("two images", "one image", "text"), graph=probe)[probe].values
    assert got.shape[-1] == 18
    assert (got[:, 0] > 0).any()
    for sample, known in ((1, 9), (2, 0)):
        assert got[:, sample, :, known:].isnan().all()


def test_mass_of_a_text_sample_in_a_batch_is_zero_on_the_image():
    probe = SegmentMass("query")
    got = tiny.lmm().run(tiny.batch("one image", "text"), graph=probe)[probe].at(segment="image")
    assert got.values[:, 0].min() >= 0
    assert got.values[:, 0].max() > 0.2
    assert (got.values[:, 1] == 0).all()


def test_an_answer_can_be_read_again_in_one_pass():
    """An encoding whose layout goes on after the prompt: probes say the tokens' own places."""
    encoding = tiny.encode()
    run = tiny.lmm().generate(encoding, max_new_tokens=5)
    ids = run.ids[:, :26]
    inputs = {**encoding.inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    whole = replace(encoding, inputs=inputs, layout=encoding.layout.extend(4))
    graph = Resid("generated") | Pattern("generated") | SegmentMass("generated")
    again = tiny.lmm().run(whole, graph=graph)
    first = tiny.lmm().generate(encoding, graph=graph, max_new_tokens=5)
    for probe in graph:
        assert again[probe].coords["query"] == (22, 23, 24, 25)
        torch.testing.assert_close(again[probe].values, first[probe].values, atol=2e-5, rtol=1e-4)
    assert again.layout.prompt_length == 22
