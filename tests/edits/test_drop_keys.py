"""Keys that leave the cache: the same answer as the cut flow, from fewer keys."""

from functools import cache

import pytest
import torch
from transformers import LlavaForConditionalGeneration, MistralConfig

import vsink_interp as vi
from tests import nodes, restated, test_state, tiny
from tests.nodes import apart
from vsink_interp import probes
from vsink_interp.engine.cached_prefix import CACHE_ARGUMENT

N_NEW = 18
N_CUT = 9
"""Tokens of the test that goes over prompts, groups and layers; the others generate twice that."""
PROMPTS = {
    "one": tiny.encode,
    "two images": lambda: tiny.encode("two images"),
    "batch": tiny.batch,
}
GROUPS = ("image", "image[0]", "sink & image", "bos query", "prompt & ~image", "prompt")
NEAR = 1e-5


@cache
def prompts(name):
    return PROMPTS[name]()


@cache
def untouched(name, attention):
    return tiny.lmm(attention=attention).generate(prompts(name), max_new_tokens=N_CUT).logits


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("layers", [":", "1:3"])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("name", PROMPTS)
def test_dropped_keys_equal_the_cut_flow(name, group, layers, attention):
    lmm, encoding = tiny.lmm(attention=attention), prompts(name)
    plain = untouched(name, attention)
    cut = lmm.generate(
        encoding, graph=vi.Knockout(f"{group} -> generated", layers), max_new_tokens=N_CUT
    )
    dropped = lmm.generate(encoding, graph=vi.DropKeys(group, layers), max_new_tokens=N_CUT)
    assert apart(cut.logits, plain) > 0.1, "the cut does nothing"
    assert apart(dropped.logits, cut.logits) < NEAR
    assert torch.equal(dropped.ids, cut.ids)
    assert torch.equal(dropped.logits[:, 0], plain[:, 0]), "the prefill was touched"


@pytest.mark.parametrize("name", PROMPTS)
def test_dropped_keys_equal_plain_eager_attention(name):
    encoding, reference = prompts(name), tiny.lmm(attention="eager").hf_model
    edits = restated.knockout(encoding.layout, ["image"], ["generated"], range(tiny.LAYERS))
    ids, logits = restated.answer(reference, encoding.inputs, 16, **edits)
    run = tiny.lmm().generate(encoding, graph=vi.DropKeys("image"), max_new_tokens=16)
    assert torch.equal(run.ids, ids)
    assert apart(run.logits, logits) < 2 * NEAR  # sums in another order, without a cache


def test_a_dropped_batch_equals_its_samples_one_by_one():
    lmm, edit = tiny.lmm(), vi.DropKeys("image")
    together = lmm.generate(tiny.batch(), graph=edit, max_new_tokens=N_NEW)
    for i, name in enumerate(tiny.PROMPTS):
        alone = tiny.encode(name)
        graph = edit if alone.layout.mask("image").any() else None
        want = lmm.generate(alone, graph=graph, max_new_tokens=N_NEW)
        assert torch.equal(together.generated[i], want.generated[0])
        assert apart(together.logits[i], want.logits[0]) < 2 * NEAR


def cache_sizes(lmm, encoding, graph, steps=4):
    """Keys that every layer's attention is given in the last pass."""
    sizes, handles = {}, []

    def note(module, args, kwargs, output):
        del args, output
        sizes[module.layer_idx] = kwargs[CACHE_ARGUMENT].layers[module.layer_idx].keys.shape[2]

    for layer in lmm.hooked.layers:
        handles.append(layer.self_attn.register_forward_hook(note, with_kwargs=True))
    try:
        lmm.generate(encoding, graph=graph, max_new_tokens=steps)
    finally:
        for handle in handles:
            handle.remove()
    return [sizes[layer] for layer in range(tiny.LAYERS)]


def test_the_cache_is_really_shorter():
    lmm, encoding = tiny.lmm(), tiny.encode()
    length = encoding.layout.length + 3
    assert cache_sizes(lmm, encoding, None) == [length] * 4
    assert cache_sizes(lmm, encoding, vi.DropKeys("image")) == [length - tiny.N_IMAGE] * 4
    shorter = [length, length - tiny.N_IMAGE, length, length]
    assert cache_sizes(lmm, encoding, vi.DropKeys("image", 1)) == shorter


def test_a_batch_keeps_as_many_as_its_longest_remainder():
    encoding = tiny.batch("one image", "short")
    rest = int(encoding.layout.mask("prompt & ~image").sum(-1).max())
    assert rest < encoding.layout.length - tiny.N_IMAGE + 5
    assert cache_sizes(tiny.lmm(), encoding, vi.DropKeys("image")) == [rest + 3] * 4


def test_every_block_drops_its_own_sinks():
    lmm, encoding = tiny.lmm(), tiny.encode()
    probe = probes.SinkValue("prompt")
    phi = lmm.run(encoding, graph=probe)[probe].values[:, 0]
    sinks = ((phi >= tiny.SINKS.tau) & encoding.layout.mask("image")[0]).sum(-1).tolist()
    assert len(set(sinks)) > 1, "all layers have as many sinks"
    want = [encoding.layout.length + 3 - n for n in sinks]
    assert cache_sizes(lmm, encoding, vi.DropKeys("sink & image")) == want


def test_drops_add_up():
    lmm, encoding = tiny.lmm(), tiny.batch()
    both = vi.DropKeys("image", "1:") | vi.DropKeys("system", ":2")
    cut = vi.Knockout("image -> generated", "1:") | vi.Knockout("system -> generated", ":2")
    one, other = (lmm.generate(encoding, graph=g, max_new_tokens=6) for g in (both, cut))
    assert apart(one.logits, other.logits) < NEAR
    single = lmm.generate(encoding, graph=vi.DropKeys("image", "1:"), max_new_tokens=6)
    assert apart(one.logits, single.logits) > 0.1


# What acts and reads after the drop still means the right tokens.

ROT_K = {name for name in nodes.PROBES if "rot_k" in name}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", [name for name in nodes.PROBES if name not in ROT_K])
def test_a_probe_records_what_it_records_under_the_cut_flow(name, attention):
    lmm, encoding, probe = tiny.lmm(attention=attention), tiny.batch(), nodes.PROBES[name]
    drop, cut = vi.DropKeys("image", "1:"), vi.Knockout("image -> generated", "1:")
    run, want = (lmm.generate(encoding, graph=g | probe, max_new_tokens=5) for g in (drop, cut))
    assert torch.equal(run.ids, want.ids)
    assert run[probe].axes == want[probe].axes
    assert run[probe].coords == want[probe].coords
    torch.testing.assert_close(
        run[probe].values, want[probe].values, atol=3e-5, rtol=1e-4, equal_nan=True
    )


def test_a_probe_changes_no_bit_after_a_drop():
    lmm, encoding, drop = tiny.lmm(), tiny.batch(), vi.DropKeys("sink & image")
    without = lmm.generate(encoding, graph=drop, max_new_tokens=5)
    probed = lmm.generate(encoding, graph=drop | probes.SegmentMass(), max_new_tokens=5)
    assert torch.equal(probed.logits, without.logits)
    assert torch.equal(probed.ids, without.ids)


def test_keys_that_are_gone_are_no_numbers():
    lmm, encoding, probe = tiny.lmm(), tiny.encode(), probes.Activation("attn.hook_rot_k")
    image = encoding.layout.mask("image")[0]
    full = lmm.generate(encoding, graph=probe, max_new_tokens=2)[probe].values
    found = lmm.generate(encoding, graph=vi.DropKeys("image") | probe, max_new_tokens=2)
    last = found[probe].values[:, -1, 0] if "step" in found[probe].axes else None
    assert last is not None
    assert last[:, : len(image)][:, image].isnan().all()
    torch.testing.assert_close(
        last[:, : len(image)][:, ~image], full[:, -1, 0, : len(image)][:, ~image]
    )


LATER = {name: edit for name, edit in nodes.EDITS.items() if "vision" not in name}


@pytest.mark.parametrize("name", LATER)
def test_an_edit_acts_as_it_does_under_the_cut_flow(name):
    lmm, edit = tiny.lmm(), LATER[name]
    encoding = tiny.batch(nodes.prompt_for(name), "image last")
    drop, cut = vi.DropKeys("image[0]", "1:"), vi.Knockout("image[0] -> generated", "1:")
    run, want = (lmm.generate(encoding, graph=g | edit, max_new_tokens=5) for g in (drop, cut))
    assert apart(run.logits, want.logits) < 5 * NEAR
    assert torch.equal(run.ids, want.ids)


@pytest.mark.parametrize("layers", [":", "1:3"])
def test_an_edit_of_keys_meets_the_tokens_that_they_belong_to(layers):
    """Every key is scaled by its token, in a batch whose samples keep different numbers of keys."""
    encoding, n = tiny.batch(), 5
    assert len(set(encoding.layout.mask("image").sum(-1).tolist())) > 1
    weigh = 1 - 0.015 * torch.arange(encoding.layout.length + n)
    at = range(tiny.LAYERS) if layers == ":" else range(1, 3)
    cut = restated.knockout(encoding.layout, ["image"], ["generated"], at)["scores"]

    def scores(layer, table):
        return cut(layer, table * weigh[: table.shape[-1]] if layer in at else table)

    edit = vi.Fn(
        "attn.hook_rot_k",
        lambda k, hook: k * weigh[: k.shape[1], None, None],  # noqa: ARG005
        layers=layers,
    )
    graph = edit | vi.DropKeys("image", layers)
    reference = tiny.lmm(attention="eager").hf_model
    ids, logits = restated.answer(reference, encoding.inputs, n, scores=scores)
    run = tiny.lmm().generate(encoding, graph=graph, max_new_tokens=n)
    without = tiny.lmm().generate(encoding, graph=vi.DropKeys("image", layers), max_new_tokens=n)
    assert apart(run.logits, without.logits) > 0.1
    assert torch.equal(run.ids, ids)
    assert apart(run.logits, logits) < 2 * NEAR


@pytest.mark.parametrize("hook", ["attn.hook_pattern", "attn.hook_attn_scores"])
def test_attention_to_keys_that_are_gone_is_refused(hook):
    edit = vi.Fn(hook, lambda x, hook: torch.full_like(x, 0.01))  # noqa: ARG005
    with pytest.raises(vi.CapabilityError, match=r"left the cache of layers \[1, 2, 3\].*Knockout"):
        tiny.lmm().generate(tiny.encode(), graph=vi.DropKeys("image", "1:") | edit)


def test_half_precision_is_no_worse_than_the_cut_flow():
    encoding, cut = tiny.batch(), vi.Knockout("image -> generated")
    exact = tiny.lmm().generate(encoding, graph=cut, max_new_tokens=2).logits
    for dtype in (torch.bfloat16, torch.float16):
        lmm = tiny.lmm(dtype)
        masked = lmm.generate(encoding, graph=cut, max_new_tokens=2)
        dropped = lmm.generate(encoding, graph=vi.DropKeys("image"), max_new_tokens=2)
        # The first token comes from the same prefill; the second may flip where two logits tie.
        assert torch.equal(masked.generated[:, 0], dropped.generated[:, 0])
        assert apart(dropped.logits, exact) < 1.5 * apart(masked.logits, exact) + 1e-3


# What could not act is refused, and nothing is left behind.


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: vi.DropKeys("generated"), "nothing is generated yet"),
        (lambda: vi.DropKeys("image", after="decode"), "not one of: prefill"),
        (lambda: vi.DropKeys("picture"), "choose from"),
        (lambda: vi.DropKeys("image", "1::"), "layer range"),
    ],
)
def test_what_cannot_be_dropped_is_refused(make, word):
    with pytest.raises(vi.NotationError, match=word):
        make()


def test_what_could_not_act_is_refused():
    lmm, encoding = tiny.lmm(), tiny.encode()
    with pytest.raises(vi.LayoutError, match="generate with 2 or more"):
        lmm.run(encoding, graph=vi.DropKeys("image"))
    with pytest.raises(vi.LayoutError, match="generate with 2 or more"):
        lmm.generate(encoding, graph=vi.DropKeys("image"), max_new_tokens=1)
    with pytest.raises(vi.LayoutError, match="no image"):
        lmm.generate(tiny.encode("text"), graph=vi.DropKeys("image"))
    with pytest.raises(vi.NotationError, match="layer"):
        lmm.generate(encoding, graph=vi.DropKeys("image", "9:"))


def test_a_sliding_cache_is_refused_by_layer():
    text = tiny.config().text_config.to_dict()
    config = tiny.config()
    config.text_config = MistralConfig(**text | {"sliding_window": 6})
    lmm = vi.LMM(LlavaForConditionalGeneration(config).eval(), tiny.processor())
    with pytest.raises(vi.CapabilityError, match=r"layer 0.*SlidingWindow.*cut the flow"):
        lmm.generate(tiny.encode(), graph=vi.DropKeys("image"), max_new_tokens=3)


def test_a_run_leaves_nothing():
    lmm = tiny.fresh()
    lmm.run(tiny.encode())
    before = test_state.state(lmm)
    plain = lmm.generate(tiny.encode(), max_new_tokens=4)
    lmm.generate(tiny.encode(), graph=vi.DropKeys("sink & image"), max_new_tokens=4)
    assert test_state.state(lmm) == before
    assert torch.equal(lmm.generate(tiny.encode(), max_new_tokens=4).logits, plain.logits)


def test_a_drop_is_a_value():
    graph = vi.DropKeys("image", "1:") | vi.VAR() | probes.SegmentMass()
    assert eval(repr(graph), {n: getattr(vi, n) for n in vi.__all__} | vars(probes)) == graph
    assert vi.EditGraph.from_json(graph.to_json()) == graph
    assert str(graph).startswith("edit  cache             layers 1: DropKeys(")
    assert "cache" in graph.mermaid()
    assert "DropKeys" in graph._repr_html_()
