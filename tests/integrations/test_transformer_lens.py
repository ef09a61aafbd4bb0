"""The same names, shapes and values as TransformerLens's own; and a run as its cache.

What needs transformer-lens skips without it: `make tl` runs it in an environment of its own.
"""

import importlib.util

import pytest
import torch

import vsink_interp as vi
from tests import nodes, tiny
from tests.integrations.conftest import cached
from vsink_interp import integrations, probes
from vsink_interp.integrations.lens_model import LensModel

needs_tl = pytest.mark.skipif(
    importlib.util.find_spec("transformer_lens") is None, reason="needs transformer-lens: make tl"
)
TOLERANCE = 2e-5


def everything(names=None):
    return integrations.run_with_cache(tiny.lmm(), tiny.encode(), names_filter=names)[1]


def theirs_of(name: str) -> str:
    return name.replace("vision_encoder.blocks", "vision_encoder.encoder_layers")


@needs_tl
def test_names_shapes_and_values_are_transformer_lens_s(bridge):
    bridge.set_use_attn_result(True)
    logits, theirs = cached(bridge, tiny.encode())
    lmm = tiny.lmm()
    ours = everything(bool)
    assert nodes.apart(lmm.run(tiny.encode()).logits, logits) < TOLERANCE
    depth = {None: [None], "blocks": range(tiny.LAYERS), "vision_encoder.blocks": range(2)}
    compared = 0
    for point in vi.HOOKS:
        neurons = point.stack == "vision_encoder.blocks" and point.name == "mlp.hook_post"
        if point.template not in lmm.hooks or point.template == "hook_embed" or neurons:
            continue  # its vision layers have no hook at their neurons
        for layer in depth[point.stack]:
            name = point.at(layer)
            mine, other = ours[name], theirs[theirs_of(name)]
            if point.name == "attn.hook_attn_scores":  # theirs hide keys by the least float
                other = other.masked_fill(other <= torch.finfo(other.dtype).min, -torch.inf)
                assert torch.equal(mine.isinf(), other.isinf())
                mine, other = (x.masked_fill(x.isinf(), 0) for x in (mine, other))
            assert mine.shape == other.shape, name
            assert float(mine.abs().max()) > 100 * TOLERANCE, name
            assert nodes.apart(mine, other) < TOLERANCE, name
            compared += 1
    assert compared > 60


@needs_tl
def test_scales_of_norms_are_theirs(bridge):
    _, theirs = cached(bridge, tiny.encode())
    ours = everything()
    names = ["ln_final.hook_scale", "blocks.2.ln1.hook_scale", "blocks.0.ln2.hook_scale"]
    for name in names:
        assert nodes.apart(ours[name], theirs[name]) < TOLERANCE
        assert float(ours[name].std()) > 0.01


@needs_tl
def test_their_embedding_at_image_tokens_is_the_placeholder_s(bridge):
    """Why `hook_embed` of our cache is what enters layer 0: parts must sum to the whole."""
    _, theirs = cached(bridge, tiny.encode())
    image = tiny.encode().layout.mask("image")
    off = (theirs.decompose_resid().sum(0) - theirs["resid_post", -1]).abs().amax(-1)
    assert float(off[image].min()) > 0.1
    assert float(off[~image].max()) < TOLERANCE
    ours = everything()
    assert nodes.apart(ours.decompose_resid().sum(0), ours["resid_post", -1]) < TOLERANCE


@needs_tl
def test_indexing_and_stacking():
    from transformer_lens import ActivationCache

    cache = everything()
    assert isinstance(cache, ActivationCache)
    pattern = probes.Pattern("all")
    assert torch.equal(
        cache["pattern", 2], tiny.lmm().run(tiny.encode(), graph=pattern)[pattern].values[2]
    )
    assert torch.equal(cache["resid_post", -1], cache["blocks.3.hook_resid_post"])
    assert torch.equal(cache.stack_activation("z")[1], cache["z", 1])
    streams, labels = cache.accumulated_resid(return_labels=True)
    assert labels == ["0_pre", "1_pre", "2_pre", "3_pre", "final_post"]
    assert torch.equal(streams[2], cache["resid_pre", 2])
    assert cache.remove_batch_dim()["resid_post", 0].ndim == 2


@needs_tl
def test_heads_and_neurons_sum_to_what_attention_and_mlp_add():
    cache = everything()
    heads = cache.stack_head_results()
    assert heads.shape[0] == tiny.LAYERS * tiny.HEADS
    added = cache.stack_activation("attn_out").sum(0)
    assert nodes.apart(heads.sum(0), added) < TOLERANCE
    assert float(added.abs().max()) > 0.1
    neurons = cache.get_neuron_results(1).sum(-2)
    assert nodes.apart(neurons, cache["mlp_out", 1]) < TOLERANCE
    whole = cache.get_full_resid_decomposition(expand_neurons=False).sum(0)
    assert nodes.apart(whole, cache["resid_post", -1]) < TOLERANCE


@needs_tl
@pytest.mark.parametrize("as_given", [int, str, torch.tensor], ids=["id", "word", "tensor"])
def test_logit_attributions_sum_to_the_logit(as_given):
    """Against the logits of the plain model."""
    words = {word: tiny.tokenizer().convert_tokens_to_ids(word) for word in ("red", "blue")}
    one, other = (word if as_given is str else as_given(words[word]) for word in words)
    cache = everything()
    logits = tiny.plain(tiny.lmm(), tiny.encode())
    parts = cache.logit_attrs(cache.decompose_resid(), one)
    assert parts.shape == (1 + 2 * tiny.LAYERS, 1, logits.shape[1])
    assert float(parts[0].abs().max()) > 0.01
    assert nodes.apart(parts.sum(0), logits[..., words["red"]]) < TOLERANCE
    less = cache.logit_attrs(cache.decompose_resid(), one, incorrect_tokens=other).sum(0)
    assert nodes.apart(less, logits[..., words["red"]] - logits[..., words["blue"]]) < TOLERANCE


@needs_tl
def test_their_logit_lens_reads_our_cache():
    cache = everything()
    found = cache.logit_lens(positions=None)
    logits = tiny.plain(tiny.lmm(), tiny.encode())
    assert nodes.apart(found.values[-1], logits) < TOLERANCE
    assert nodes.apart(found.values[0], logits) > 0.1


@needs_tl
def test_a_generated_answer_has_one_row_per_token_that_was_read():
    lmm, encoding = tiny.lmm(), tiny.encode()
    names = [
        f"blocks.{layer}.{name}"
        for layer in (1, 3)
        for name in ("attn.hook_pattern", "attn.hook_rot_k", "hook_resid_post")
    ]
    graph = integrations.cache_graph(lmm, names)
    run = lmm.generate(encoding, graph=graph, max_new_tokens=4)
    cache = integrations.to_transformer_lens(run, lmm)
    seen = run.ids.shape[1] - 1
    assert cache["pattern", 3].shape == (1, tiny.HEADS, seen, seen)
    assert cache["rot_k", 1].shape == (1, seen, tiny.KV_HEADS, tiny.WIDTH // tiny.HEADS)
    assert nodes.apart(cache["pattern", 3].sum(-1), torch.ones(())) < 1e-5
    whole = {"input_ids": run.ids[:, :-1], "pixel_values": encoding.inputs["pixel_values"]}
    plain = lmm.hf_model(**whole, output_hidden_states=True).hidden_states
    assert nodes.apart(cache["resid_post", 1], plain[2]) < TOLERANCE


@needs_tl
def test_edits_act_before_the_cache_is_filled():
    cut = vi.Knockout("image -> query")
    _, cache = integrations.run_with_cache(tiny.lmm(), tiny.encode(), graph=cut)
    tokens = tiny.encode().layout
    rows, keys = tokens.mask("query")[0], tokens.mask("image")[0]
    assert float(everything()["pattern", 0][0][:, rows][..., keys].min()) > 0
    assert float(cache["pattern", 0][0][:, rows][..., keys].max()) == 0
    probe = probes.Resid("all", at="post")
    grown = vi.Fn("hook_resid_post", nodes.grow, layers=2)
    run = tiny.lmm().run(tiny.encode(), graph=probe | grown | probe)
    cache = integrations.to_transformer_lens(run, tiny.lmm())
    assert torch.equal(cache["resid_post", 2], 1.5 * run[f"{probe!r}#1"].values[2])


@needs_tl
@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (probes.SegmentMass(), "holds no activation"),
        (probes.Resid("query"), "share their positions"),
    ],
)
def test_a_run_that_makes_no_cache_is_refused(graph, message):
    run = tiny.lmm().run(tiny.encode(), graph=graph)
    with pytest.raises(vi.ResultError, match=message):
        integrations.to_transformer_lens(run, tiny.lmm())


@needs_tl
def test_another_model_s_run_is_refused(lmm, scene):
    run = lmm.run(scene.image, "what is this ?", probes.Resid("all"))
    with pytest.raises(vi.ResultError, match="'toy', not of"):
        integrations.to_transformer_lens(run, tiny.lmm())


@needs_tl
def test_a_word_of_several_tokens_is_refused():
    cache = everything()
    with pytest.raises(vi.InputError, match="is not one token"):
        cache.logit_attrs(cache.decompose_resid(), "red disc")


def test_what_a_filter_keeps():
    lmm = tiny.lmm()
    graph = integrations.cache_graph(lmm, ["blocks.1.hook_mlp_out", "blocks.3.hook_mlp_out"])
    assert graph == vi.EditGraph(probes.Activation("hook_mlp_out", (1, 3)))
    graph = integrations.cache_graph(lmm, lambda name: name.endswith("resid_pre"))
    vision = probes.Activation("vision_encoder.blocks.{layer}.hook_resid_pre", (0, 1))
    assert graph == vision | probes.Activation("hook_resid_pre", (0, 1, 2, 3))
    with pytest.raises(vi.ResultError, match="no hook point passes"):
        integrations.cache_graph(lmm, lambda name: not name)
    with pytest.raises(vi.NotationError, match="needs its layer"):
        integrations.cache_graph(lmm, "hook_resid_pre")


def test_without_transformer_lens_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformer_lens", None)
    with pytest.raises(vi.CapabilityError, match=r"vsink-interp\[tl\]"):
        integrations.run_with_cache(tiny.lmm(), tiny.encode())


def test_the_view_of_a_model_has_the_names_that_their_cache_asks_for():
    """They are TransformerLens's own, and this needs no transformer-lens."""
    lmm = tiny.lmm()
    view, layer = LensModel(lmm, vi.readout(lmm)), lmm.hf_model.model.language_model.layers[1]
    heads = layer.self_attn.o_proj.weight.T.reshape(tiny.HEADS, -1, tiny.WIDTH)
    assert torch.equal(view.blocks[1].attn.W_O, heads)
    assert torch.equal(view.blocks[1].mlp.W_out, layer.mlp.down_proj.weight.T)
    assert len(view.blocks) == view.cfg.n_layers == tiny.LAYERS
    assert view.W_U.shape == (tiny.WIDTH, view.cfg.d_vocab)
