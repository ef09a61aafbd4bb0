"""What TransformerLens users type first, against plain transformers and its forward hooks."""

from dataclasses import replace

import pytest
import torch

import vsink_interp as vi
from tests import nodes, tiny
from tests.families.test_families import TINY
from vsink_interp.model import activation_cache

EAGER = tiny.hf_model(attention="eager")


@pytest.fixture(scope="module")
def plain():
    """One eager pass of an untouched model."""
    encoding = tiny.encode()
    with torch.no_grad():
        return EAGER(**encoding.inputs, output_attentions=True, output_hidden_states=True)


def test_a_cache_holds_every_activation_under_its_full_name(plain):
    logits, cache = tiny.lmm().run_with_cache(*tiny.PROMPTS["one image"])
    assert torch.equal(logits, tiny.plain(tiny.lmm(), tiny.encode()))
    for layer in range(tiny.LAYERS):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"]
        assert nodes.apart(pattern, plain.attentions[layer]) < 2e-5
        assert (
            nodes.apart(cache[f"blocks.{layer}.hook_resid_pre"], plain.hidden_states[layer]) < 1e-4
        )
        assert cache["pattern", layer] is pattern
    assert nodes.apart(cache["unembed.hook_out"], plain.logits) < 1e-4
    offered = {p.at(i) for p in map(vi.graph.find_hook, tiny.lmm().hooks) for i in range(4)}
    assert set(cache) < offered
    missing = {name for name in offered - set(cache) if "vision_encoder" not in name}
    assert all(name.endswith("attn.hook_result") for name in missing)
    assert {"vision_encoder.blocks.1.hook_mlp_out", "vision_projector.hook_out"} < set(cache)
    assert "GB: hook_embed" in repr(cache)
    with pytest.raises(vi.ResultError, match=r"did you mean 'blocks\.3\.attn\.hook_pattern'"):
        cache["blocks.3.attn.hook_patern"]


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ("blocks.3.attn.hook_result", ["blocks.3.attn.hook_result"]),
        ("blocks.{1-2}.hook_mlp_out", ["blocks.1.hook_mlp_out", "blocks.2.hook_mlp_out"]),
        (
            ["blocks.0.attn.hook_r*"],
            [f"blocks.0.attn.hook_{n}" for n in ("rot_q", "rot_k", "result")],
        ),
        (lambda name: name.endswith("0.attn.hook_z"), ["blocks.0.attn.hook_z"]),
    ],
)
def test_a_filter_keeps_what_it_names(names, wanted):
    _, cache = tiny.lmm().run_with_cache(tiny.encode(), names_filter=names)
    assert sorted(cache) == sorted(wanted)


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ("blocks.0.attn.hook_zz", vi.NotationError, "choose from"),
        ("hook_resid_pre", vi.NotationError, "needs its layer"),
        ("blocks.9.*", vi.NotationError, "fits no hook point of this model; names are such as"),
        (lambda name: not name, vi.ResultError, "no hook point passes"),
    ],
)
def test_a_filter_that_keeps_nothing_is_refused(names, error, message):
    with pytest.raises(error, match=message):
        tiny.lmm().run_with_cache(tiny.encode(), names_filter=names)


def test_edits_act_before_the_cache_is_filled():
    cut = vi.Knockout("image -> query")
    logits, cache = tiny.lmm().run_with_cache(tiny.encode(), graph=cut)
    layout = tiny.encode().layout
    rows, keys = layout.mask("query")[0], layout.mask("image")[0]
    assert float(cache["pattern", 2][0][:, rows][..., keys].max()) == 0
    assert torch.equal(logits, tiny.lmm().run(tiny.encode(), graph=cut).logits)


def test_text_alone_has_no_vision_in_its_cache():
    _, cache = tiny.lmm().run_with_cache(*tiny.PROMPTS["text"])
    assert not [name for name in cache if "vision" in name]
    assert "blocks.0.hook_resid_pre" in cache


@pytest.mark.parametrize("family", TINY)
def test_the_size_of_a_cache_is_known_before_it_is_made(family, monkeypatch):
    lmm = vi.LMM.tiny(family)
    encoding = lmm.encode(tiny.image(), "hello")
    try:
        _, cache = lmm.run_with_cache(encoding)
    except vi.CapabilityError as error:
        assert "in a run of their own" in str(error)  # a family that comes to its images late
        return
    actual = sum(x.numel() * x.element_size() for n, x in cache.items() if "vision" not in n) / 1e9
    sizes, width = activation_cache._sizes(lmm, encoding), 4
    points = [vi.graph.parse_hook(name)[0] for name in cache if "vision" not in name]
    guess = sum(activation_cache._gb(point, sizes, width) for point in points)
    assert guess == pytest.approx(actual, rel=0.02)
    monkeypatch.setattr(activation_cache, "LARGEST_GB", actual / 2)
    with pytest.raises(vi.CapabilityError, match=r"GB, more than .*names_filter='blocks\.\*\.hook"):
        lmm.run_with_cache(encoding)
    lmm.run_with_cache(encoding, names_filter="blocks.0.hook_resid_post")


def test_hook_functions_run_under_full_names_and_patterns():
    """Half the output of two MLPs, and one head of a layer at zero, against forward hooks."""
    lmm, encoding, seen = tiny.lmm(), tiny.encode(), []

    def halve(value, hook):
        seen.append((hook.name, hook.layer()))
        return value * 0.5

    def silence(value, hook):
        del hook
        value[:, :, 1] = 0

    def look(value, hook):
        seen.append((hook.name, tuple(value.shape)))

    hooks = [
        ("blocks.{1-2}.hook_mlp_out", halve),
        ("blocks.3.attn.hook_z", silence),
        (lambda name: name == "blocks.0.hook_resid_post", look),
    ]
    got = lmm.run_with_hooks(encoding, fwd_hooks=hooks)
    layers, d_head = EAGER.model.language_model.layers, tiny.WIDTH // tiny.HEADS

    def cut(_, args):
        z = args[0].clone()
        z[..., d_head : 2 * d_head] = 0
        return (z,)

    handles = [layers[i].mlp.register_forward_hook(lambda _, __, out: out * 0.5) for i in (1, 2)]
    handles.append(layers[3].self_attn.o_proj.register_forward_pre_hook(cut))
    with torch.no_grad():
        wanted = EAGER(**encoding.inputs).logits
    for handle in handles:
        handle.remove()
    assert nodes.apart(got, wanted) < 2e-5
    assert nodes.apart(got, tiny.plain(lmm, encoding)) > 1e-2
    shape = (1, encoding.layout.length, tiny.WIDTH)
    assert ("blocks.0.hook_resid_post", shape) in seen
    assert {("blocks.1.hook_mlp_out", 1), ("blocks.2.hook_mlp_out", 2)} < set(seen)
    assert torch.equal(lmm.run(encoding).logits, tiny.plain(lmm, encoding))


def test_hooks_that_are_none_are_refused():
    with pytest.raises(vi.InputError, match=r"needs fwd_hooks=\[\(name, function\)\]"):
        tiny.lmm().run_with_hooks(tiny.encode())
    with pytest.raises(vi.NotationError, match="choose from"):
        tiny.lmm().run_with_hooks(tiny.encode(), fwd_hooks=[("blocks.1.hook_x", nodes.grow)])


def test_tokens_as_text():
    lmm, encoding = tiny.lmm(), tiny.encode()
    assert lmm.to_str_tokens("a red disc") == ["<s>", "a", "red", "disc"]
    assert lmm.to_str_tokens(["red", "a disc"]) == [["<s>", "red"], ["<s>", "a", "disc"]]
    assert lmm.to_str_tokens(torch.tensor([4, 1])) == ["<image>", "<s>"]
    words = lmm.to_str_tokens(encoding)
    assert words == list(lmm.run(encoding).words[0])
    assert len(words) == encoding.layout.length
    both = tiny.batch("one image", "short")
    assert list(map(len, lmm.to_str_tokens(both))) == [both.layout.length] * 2
    assert lmm.to_str_tokens(replace(encoding, batched=True)) == [words]
