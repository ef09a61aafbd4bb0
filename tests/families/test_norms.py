"""Queries and keys before and behind their norm, against hooks on modules of plain transformers."""

import pytest
import torch

import vsink_interp as vi
from tests import nodes
from tests.families.test_families import NEAR, apart, encoded, every_family, lmm, logits
from vsink_interp.graph.hook_points import find_hook

NORMED = ("Gemma 3", "Gemma 4", "Qwen3-VL", "Qwen3.5")
GATED = "Qwen3.5"
BLOCK, N_NEW = 1, 4
MODULES = {
    "attn.hook_q": "q_proj",
    "attn.q_norm.hook_out": "q_norm",
    "attn.hook_k": "k_proj",
    "attn.k_norm.hook_out": "k_norm",
}
D_HEAD = 16

every_normed = pytest.mark.parametrize("name", NORMED)
every_hook = pytest.mark.parametrize("hook", MODULES)


def attention(model):
    return model.hf_model.get_submodule(f"model.language_model.layers.{BLOCK}.self_attn")


def shown(name, hook, out):
    """A module's output with heads behind tokens; a view."""
    if hook == "attn.hook_q" and name == GATED:  # queries and gate, head by head
        return out.unflatten(-1, (-1, 2, D_HEAD))[..., 0, :]
    if hook.endswith(("_q", "_k")):
        return out.unflatten(-1, (-1, D_HEAD))
    return out.transpose(1, 2) if name == "Gemma 3" else out


@every_family
def test_only_families_with_such_norms_offer_them(name):
    offered = {find_hook(hook).name for hook in lmm(name).hooks}
    assert {"attn.hook_q", "attn.hook_k"} <= offered
    assert set(nodes.NORMED) & offered == (set(nodes.NORMED) if name in NORMED else set())
    if name not in NORMED:
        with pytest.raises(vi.CapabilityError, match="does not offer"):
            lmm(name).run(encoded(name, "one"), graph=vi.probes.Activation(nodes.NORMED[0]))


@every_hook
@every_normed
def test_what_is_read_is_what_the_module_gives(name, hook):
    model, kept = lmm(name), []
    module = attention(model).get_submodule(MODULES[hook])
    handle = module.register_forward_hook(lambda *seen: kept.append(seen[2].clone()))
    logits(model.hf_model, encoded(name, "one"))
    handle.remove()
    probe = vi.probes.Activation(hook, BLOCK)
    found = model.run(encoded(name, "one"), graph=probe)[probe].values[0]
    assert found.shape[1:] == (encoded(name, "one").layout.length, 2 + 2 * ("q" in hook), D_HEAD)
    assert torch.equal(found, shown(name, hook, kept[0]))


@every_normed
def test_the_norm_lies_between_the_two(name):
    model, probes = lmm(name), [vi.probes.Activation(hook, BLOCK) for hook in MODULES]
    run = model.run(encoded(name, "one"), graph=vi.EditGraph(*probes))
    for before, behind, norm in ((0, 1, "q_norm"), (2, 3, "k_norm")):
        value = run[probes[before]].values[0]
        want = value * (value.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        weight = getattr(attention(model), norm).weight.detach()
        gain = weight if name in ("Gemma 4", "Qwen3-VL") else 1 + weight
        assert apart(run[probes[behind]].values[0], want * gain) < NEAR
        assert apart(value, want) > 0.1


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
@every_hook
@every_normed
def test_an_edit_acts_as_a_hook_on_the_module(name, hook, kind):
    """In the prefill and in every decode step."""
    model, encoding = lmm(name, kind), encoded(name, "one")

    def edit(value, hook=None):
        del hook
        return torch.cat([3.0 * value[:, :, :1].roll(1, -1), value[:, :, 1:]], 2)

    def replaced(module, args, out):
        del module, args
        new = out.clone()
        shown(name, hook, new).copy_(edit(shown(name, hook, out)))
        return new

    options = {"max_new_tokens": N_NEW, "return_dict_in_generate": True, "output_logits": True}
    untouched = model.hf_model.generate(**encoding.inputs, **options)
    handle = attention(model).get_submodule(MODULES[hook]).register_forward_hook(replaced)
    theirs = model.hf_model.generate(**encoding.inputs, **options)
    handle.remove()
    run = model.generate(encoding, graph=vi.Fn(hook, edit, layers=BLOCK), max_new_tokens=N_NEW)
    want = torch.stack(theirs.logits, 1)
    assert apart(want[:, 0], untouched.logits[0]) > 1e-3, "the edit does nothing"
    assert apart(run.logits, want) < NEAR


@every_normed
def test_an_edit_before_the_norm_goes_through_it(name):
    """An RMS norm takes a factor away again; behind it the factor stays."""
    model, encoding = lmm(name), encoded(name, "one")

    def grow(value, hook):
        del hook
        return 4.0 * value

    plain = logits(model.hf_model, encoding)
    for before, behind in (("attn.hook_q", nodes.NORMED[0]), ("attn.hook_k", nodes.NORMED[1])):
        edits = [vi.Fn(hook, grow, layers=BLOCK) for hook in (before, behind)]
        first, second = (model.run(encoding, graph=edit).logits for edit in edits)
        assert apart(first, plain) < 1e-3 * apart(second, plain)
        normed = vi.probes.Activation(behind, BLOCK)
        value = model.run(encoding, graph=normed)[normed].values
        scaled = model.run(encoding, graph=edits[1] | normed)[normed].values
        assert apart(scaled, 4.0 * value) < NEAR
