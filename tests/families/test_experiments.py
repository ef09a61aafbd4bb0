"""Published figures on a tiny model of every family, against plain transformers."""

import numpy as np
import pytest
import torch

import vsink_interp as vi
from tests.families import plain
from tests.families.test_families import (
    PROMPTS,
    SINKS,
    attending,
    every_family_with_image_tokens,
    kinds,
    lmm,
)
from tests.restated import phi
from vsink_interp import experiments as ex

MIXED, FULL = "Qwen3.5", (1, 3)
LONGEST = 5


def cases(*names, longest=LONGEST):
    shown, prompts = zip(*(PROMPTS[name] for name in names), strict=True)
    return ex.Cases(shown, prompts, max_new_tokens=longest)


def generated(model, encoding, **more):
    return model.hf_model.generate(
        **encoding.inputs, max_new_tokens=LONGEST, return_dict_in_generate=True, **more
    )


@every_family_with_image_tokens
def test_maps_of_words_are_transformers_own_attentions(name):
    """Before an edit the rows are those of generation; under none, those of the answer fed back."""
    model, (shown, prompt) = lmm(name, "eager"), PROMPTS["one"]
    maps = ex.word_maps(model, shown, prompt, graph=vi.EditGraph(), max_new_tokens=LONGEST)
    layers = attending(model)
    lacking = sorted({*range(model.n_layers)} - {*layers})
    assert np.isnan(maps.by_layer[lacking]).all()
    found = maps.by_layer[list(layers)]
    assert found.std() > 1e-4
    np.testing.assert_allclose(maps.edited_by_layer[list(layers)], found, rtol=1e-3, atol=1e-5)
    assert set(maps.layers) <= set(layers)
    if "sliding_attention" in kinds(
        model
    ):  # there transformers' keys are counted from the window's first
        return
    encoding = model.encode(shown, prompt)
    image = encoding.layout.mask("image")[0].nonzero().flatten()
    steps = generated(model, encoding, output_attentions=True).attentions
    run = model.generate(encoding, max_new_tokens=LONGEST)
    for i, word in enumerate(ex.answer_words(model, run)):
        for at, layer in enumerate(layers):
            # Of layers without patterns, transformers gives those in chunks and no others.
            place = at if len(steps[0]) == len(layers) else layer
            rows = [steps[row][place][0, :, -1, image].mean(0) for row in word.rows]
            expected = torch.stack(rows).mean(0).numpy()
            np.testing.assert_allclose(maps.by_layer[layer, i], expected, rtol=1e-3, atol=1e-5)


def test_var_of_word_maps_takes_the_blocks_that_it_can():
    model = lmm(MIXED)
    maps = ex.word_maps(model, *PROMPTS["one"], max_new_tokens=LONGEST)
    assert maps.graph == vi.EditGraph(vi.VAR(rho=0.5, layers=(1,)))
    known = ex.word_maps(lmm("Qwen2-VL"), *PROMPTS["one"], max_new_tokens=LONGEST)
    assert known.graph == vi.EditGraph(vi.VAR(rho=0.5))
    assert maps.most_changed in FULL


def test_knockouts_cut_what_has_a_pattern():
    """Against a cut in transformers' own mask in those layers."""
    model, one = lmm(MIXED), PROMPTS["wide"]
    reference, encoding = lmm(MIXED, "eager"), model.encode(*one)
    new = torch.zeros(1, LONGEST, dtype=torch.bool)
    columns = torch.cat([encoding.layout.mask("image"), new], 1)
    query = encoding.layout.mask("query")
    told = {}
    for flow, first, text in (
        ("image -> generated", 1, torch.zeros_like(query)),
        ("image -> query generated", 1, query),
        ("image -> query generated", 3, query),
    ):
        rows = torch.cat([text, ~new], 1)
        layers = [layer for layer in FULL if layer >= first]
        with plain.cut(reference.hf_model, rows, columns, layers):
            ids = generated(reference, encoding).sequences[0, encoding.layout.length :]
        told[flow, first] = model.processor.tokenizer.decode(ids, skip_special_tokens=True)
    uncut = model.generate(encoding, max_new_tokens=LONGEST).text
    assert len({uncut, *told.values()}) == 3, "a cut does nothing"
    found = ex.query_only(model, cases("wide"))
    assert found.query_only == (told["image -> generated", 1],)
    sweep = ex.knockout_sweep(model, cases("wide"), flows=("image -> query generated",))
    assert sweep.layers == FULL
    wanted = [cases("wide").f1([told["image -> query generated", at]], [uncut]) for at in FULL]
    np.testing.assert_allclose(sweep.f1[0], wanted)


def test_shares_and_heads_say_which_blocks_they_are_of():
    model, encoding = lmm(MIXED, "eager"), lmm(MIXED).encode(*PROMPTS["one"])
    steps = generated(model, encoding, output_attentions=True).attentions
    image = encoding.layout.mask("image")[0]
    rows = torch.stack([
        torch.stack([step[at][0, :, -1, : len(image)][:, image].sum(-1) for step in steps])
        for at in range(2)
    ])  # fmt: skip
    shares = ex.segment_mass(model, cases("one"))
    assert shares.layers == FULL
    got = shares.mean[:, shares.groups.index("image")]
    np.testing.assert_allclose(got, rows.mean((1, 2)), rtol=1e-3)
    heads = ex.image_heads(model, cases("one"), rho=0.0, min_image_mass=0.0)
    assert heads.layers == FULL
    assert {layer for layer, _, _ in heads.top(100)} == set(FULL)
    hidden = ex.sink_ablation(model, cases("one"))
    assert hidden.graphs[1] == vi.EditGraph(vi.HideKeys("sink & image", layers=FULL))
    assert vi.plot.heads(heads).axes[1].get_yticklabels()[1].get_text() == "3"
    assert list(vi.plot.segment_mass(shares).axes[0].lines[0].get_xdata()) == list(FULL)


def test_sink_values_are_of_blocks_that_have_attention_beside_them():
    model = lmm(MIXED)
    found = ex.sink_values(model, cases("one"))
    assert found.layers == (1,)
    stream = vi.probes.Resid("image", 1, at="pre")
    resid = model.run(model.encode(*PROMPTS["one"]), graph=stream)[stream].values[0]
    np.testing.assert_allclose(found.image_phi, phi(resid, SINKS.dims), rtol=1e-4)
    assert ex.token_strengths(model, *PROMPTS["one"], max_new_tokens=3).layers == (1,)
    with pytest.raises(vi.CapabilityError, match="gates its heads"):
        ex.contributions(model, cases("one"))


def test_patching_takes_the_blocks_that_offer_its_hook_point():
    model, (shown, prompt), (other, _) = lmm(MIXED), PROMPTS["one"], PROMPTS["two"]
    found = ex.patching(
        model, (shown, prompt), (other[1], prompt), "red", "blue", hook="attn.hook_z"
    )
    assert found.layers == FULL
    assert np.ptp(found.difference) > 1e-4


def test_what_image_tokens_are_needed_for_is_refused_by_name():
    for measure in (ex.spectrum, ex.word_maps):
        with pytest.raises(vi.LayoutError, match=r"no image token.*cross-attention"):
            measure(lmm("Mllama"), *PROMPTS["one"])


@every_family_with_image_tokens
def test_an_overview_draws_the_view_of_the_whole_image(name):
    """Of a tiled image too: each map has the grid of that view, and its tokens' attention."""
    maps = ex.word_maps(lmm(name), *PROMPTS["wide"], max_new_tokens=LONGEST)
    panels = vi.plot.overview(maps).axes[1:4]
    shown = list(maps.span.tokens_of())
    for panel in panels:
        assert panel.images[-1].get_array().shape[:2] == maps.span.grid
    opacity = panels[2].images[-1].get_array()[..., 3].flatten()
    pairs = zip(maps.before[:, shown], maps.after[:, shown], strict=True)
    laid = [0.9 * (after / max(before.max(), after.max())) ** 0.6 for before, after in pairs]
    assert any(np.allclose(opacity, one, atol=1e-5) for one in laid)
