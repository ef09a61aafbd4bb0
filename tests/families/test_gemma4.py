"""Gemma 4 beyond its tiny model: shared keys, heads that differ by layer, images seen whole."""

from dataclasses import replace
from functools import cache

import pytest
import torch

import vsink_interp as vi
from tests.families import plain
from tests.families.test_decoder_only import compute_alike
from tests.families.test_families import NEAR, PROMPTS, SINKS, apart
from vsink_interp.experiments import Quizzes
from vsink_interp.families.gemma4 import tiny
from vsink_interp.families.tiny import build
from vsink_interp.model.identities import failed_here, own_sight
from vsink_interp.reproduction import Setup
from vsink_interp.reproduction.paper_b.compressed import costs

KINDS = {
    "keys shared": {"num_kv_shared_layers": 2},
    "images seen whole": {
        "use_bidirectional_attention": "vision", "hidden_size_per_layer_input": 0,
        "global_head_dim": 32, "num_global_key_value_heads": 1, "attention_k_eq_v": True,
    },
}  # fmt: skip
WHOLE = "images seen whole"


@cache
def lmm(kind):
    config, processor = tiny(**KINDS[kind])
    return vi.LMM(build(config, "eager"), processor, sinks=SINKS, check=False)


@pytest.mark.parametrize("kind", KINDS)
def test_its_decoder_computes_what_transformers_computes(kind):
    compute_alike(lmm(kind))
    assert not failed_here(lmm(kind))


def test_a_row_of_an_image_sees_all_of_it_in_layers_with_windows_alone():
    """By the masks of the model, by what its attention gives something, and by the layout."""
    model, encoding = lmm(WHOLE), lmm(WHOLE).encode(*PROMPTS["two"])
    layout, probe = encoding.layout, vi.probes.Activation("attn.hook_pattern")
    assert own_sight(model) == layout.sight == "windowed image blocks"
    run = model.run(encoding, graph=probe)
    seen = (run[probe].values > 0).any(2)
    rows = range(layout.length)
    ahead = torch.ones(layout.length, layout.length, dtype=torch.bool).triu(1)
    for layer, window in enumerate(layout.windows):
        assert torch.equal(seen[layer], layout.visible(rows, window))
        assert (seen[layer] & ahead).any() == (window is not None)
        keys = layout.mask("image[2]")
        assert torch.equal(layout.reached(keys, window), (seen[layer] & keys[:, None]).any(-1))
    assert torch.equal(layout.visible(rows), seen.any(0))
    pattern = vi.probes.Pattern("image")
    record = model.run(encoding, graph=pattern)[pattern]
    counted = record.counts.expand(record.values.shape)[:, 0, 0]
    image = layout.mask("image")[0]
    at = [place for place, row in enumerate(record.labels("query")) if image[row]]
    assert torch.equal(counted[:, at], seen[:, 0][:, image])


def test_heads_that_differ_by_layer_are_read_layer_by_layer():
    model, encoding = lmm(WHOLE), lmm(WHOLE).encode(*PROMPTS["one"])
    shapes = {}
    for hook in ("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z", "attn.hook_rot_k"):
        probes = [vi.probes.Activation(hook, layer) for layer in (0, 1)]
        run = model.run(encoding, graph=vi.EditGraph(*probes))
        shapes[hook] = [tuple(run[probe].values.shape[-2:]) for probe in probes]
    few, one, many = [(2, 16), (1, 32)], [(2, 16), (1, 32)], [(4, 16), (4, 32)]
    assert list(shapes.values()) == [many, few, one, many, few]
    for ask in (vi.probes.Activation("attn.hook_z"), vi.probes.Activation("attn.hook_k")):
        with pytest.raises(
            vi.CapabilityError, match=r"heads of layers .* differ in number or width"
        ):
            model.run(encoding, graph=ask)
    assert model.hooked.n_heads == {"head": 4, "kv_head": 1}
    with pytest.raises(vi.CapabilityError, match=r"are \[16, 32\] wide"):
        _ = model.hooked.d_head


def test_costs_of_contexts_are_refused_where_contexts_are():
    """Not by what a configuration says of its heads."""
    image, prompt = PROMPTS["one"]
    quizzes = Quizzes((image,), ((prompt,),), (("yes",),), prompt, described=1)
    with pytest.raises(vi.CapabilityError, match="keeps its keys in a Dynamic"):
        next(costs(lmm(WHOLE), quizzes, Setup()))


def test_a_layer_without_keys_of_its_own_does_not_offer_them():
    model = lmm("keys shared")
    assert model.layers_with("attn.hook_k") == model.layers_with("attn.hook_v") == (0, 1)
    assert model.layers_with("attn.hook_rot_k") == (0, 1, 2, 3)


def test_rows_are_counted_by_token_where_keys_are_shared_and_windows_slide():
    """The prompt is longer than the window, and layer 2 keeps no keys of its own."""
    model, encoding = lmm("keys shared"), lmm("keys shared").encode(*PROMPTS["one"])
    new = torch.zeros(1, 4, dtype=torch.bool)
    columns = torch.cat([encoding.layout.mask("query"), ~new], 1)
    rows = torch.cat([torch.zeros_like(encoding.layout.mask("query")), ~new], 1)
    options = {"max_new_tokens": 4, "return_dict_in_generate": True, "output_logits": True}
    columns[:, encoding.layout.prompt_length - 1 :] = False  # a window keeps some of its keys
    with plain.cut(model.hf_model, rows, columns, (2, 3)):
        theirs = torch.stack(model.hf_model.generate(**encoding.inputs, **options).logits, 1)
    cut = vi.Knockout("query & ~last -> generated", (2, 3))
    run = model.generate(encoding, graph=cut, max_new_tokens=4)
    untouched = model.generate(encoding, max_new_tokens=4)
    assert apart(theirs[:, 1], untouched.logits[:, 1]) > 0.01
    assert apart(run.logits, theirs) < NEAR


def _rows_of_the_last_layer(model):
    """How many rows its attention computes in the prefill of plain generation."""
    seen, encoding = [], model.encode(*PROMPTS["one"])
    attention = model.hooked.layers[-1].self_attn
    handle = attention.register_forward_hook(lambda *seen_by: seen.append(seen_by[-1][0].shape[1]))
    model.hf_model.generate(**encoding.inputs, max_new_tokens=1)
    handle.remove()
    return seen[0]


def test_a_record_of_layers_that_compute_other_rows_is_refused():
    """Where layers share keys, generation computes the last row of the prompt alone in them."""
    model, probe = lmm("keys shared"), vi.probes.Activation("attn.hook_pattern")
    if _rows_of_the_last_layer(model) > 1:
        pytest.skip("this release of transformers computes every row in every layer")
    with pytest.raises(vi.CapabilityError, match=r"layers \[2, 3\] computed other rows"):
        model.generate(*PROMPTS["one"], graph=probe, max_new_tokens=2)
    late = replace(probe, layers="2:")
    run = model.generate(*PROMPTS["one"], graph=late, max_new_tokens=3)
    assert run[late].labels("query") == tuple(
        range(run.layout.prompt_length - 1, run.layout.prompt_length + 2)
    )
