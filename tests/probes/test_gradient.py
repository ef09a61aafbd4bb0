"""Gradients at every hook point, against plain autograd of an eager model."""

import pytest
import torch

import vsink_interp as vi
from tests import nodes, tiny
from tests.families.test_families import TINY
from vsink_interp.probes import Activation, Gradient

LAYER = 2
OF = "logit of 'blue' - 'red' at last"
IDS = tiny.tokenizer().convert_tokens_to_ids(["blue", "red"])
MODULES = {
    "hook_resid_pre": ("", "input"),
    "hook_attn_out": ("self_attn", "first"),
    "hook_mlp_out": ("mlp", "output"),
    "mlp.hook_pre": ("mlp.gate_proj", "output"),
    "mlp.hook_post": ("mlp.down_proj", "input"),
    "attn.hook_q": ("self_attn.q_proj", "output"),
    "attn.hook_k": ("self_attn.k_proj", "output"),
    "attn.hook_v": ("self_attn.v_proj", "output"),
    "attn.hook_z": ("self_attn.o_proj", "input"),
}
"""Hook points that a module of the plain model holds."""


def target(logits):
    return logits[:, -1, IDS[0]].sum() - logits[:, -1, IDS[1]].sum()


@pytest.fixture(scope="module")
def model():
    return tiny.hf_model(attention="eager")


def wanted_of(model, encoding, hook) -> torch.Tensor:
    """The gradient by plain autograd: at a module's value, or at eager's pattern."""
    block, seen = model.model.language_model.layers[LAYER], {}

    def keep(x):
        x.retain_grad()
        seen["x"] = x

    if hook == "attn.hook_pattern":
        out = model(**encoding.inputs, output_attentions=True)
        pattern = out.attentions[LAYER]
        (found,) = torch.autograd.grad(target(out.logits), pattern)
        return found
    path, side = MODULES[hook]
    module = block.get_submodule(path)
    if side == "input":
        handle = module.register_forward_pre_hook(lambda _, args: keep(args[0]))
    else:
        handle = module.register_forward_hook(
            lambda _, __, out: keep(out[0] if side == "first" else out)
        )
    target(model(**encoding.inputs).logits).backward()
    handle.remove()
    model.zero_grad()
    return seen["x"].grad


@pytest.mark.parametrize("hook", [*MODULES, "attn.hook_pattern"])
def test_it_is_autograds(model, hook):
    lmm, encoding = tiny.lmm(), tiny.batch("one image", "short")
    probe = Gradient(hook, OF, LAYER)
    run = lmm.run(encoding, graph=probe)
    assert torch.equal(run.logits, tiny.plain(lmm, encoding))
    assert not run.logits.requires_grad
    wanted = wanted_of(model, encoding, hook)
    got = run[probe].values[0]
    assert got.numel() == wanted.numel()
    assert float(wanted.abs().max()) > 1e-4
    got = got.reshape(wanted.shape)
    real = encoding.inputs["attention_mask"].bool()
    if hook == "attn.hook_pattern":  # what stands at padding differs between kinds of attention
        there = (real[:, None, :, None] & real[:, None, None]).expand_as(got)
        got, wanted = got[there], wanted[there]
    assert nodes.apart(got, wanted) < 2e-5


FINITE = ["attn.hook_attn_scores", "attn.hook_rot_q", "attn.hook_rot_k", "attn.hook_result"]
FINITE += ["hook_resid_mid", "hook_resid_post", "attn.hook_pattern", "attn.hook_z"]


@pytest.mark.parametrize("hook", FINITE)
def test_it_is_the_slope_of_small_edits_through_other_edits(hook):
    """Where no module of the plain model holds the value: a finite difference, in float64."""
    lmm = vi.LMM(tiny.hf_model(torch.float64), tiny.processor(), sinks=tiny.SINKS, check=False)
    encoding = lmm.encode(*tiny.PROMPTS["one image"])
    encoding.inputs["pixel_values"] = encoding.inputs["pixel_values"].double()
    cut = vi.Knockout("system -> query", layers=range(1, 3))
    probe = Gradient(hook, OF, LAYER)
    grad = lmm.run(encoding, graph=cut | probe)[probe].values[0].double()
    value = lmm.run(encoding, graph=cut | Activation(hook, LAYER))[Activation].values[0]
    way = torch.randn(grad.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    way = way.masked_fill(value.isinf(), 0)

    def moved(by):
        edit = vi.Fn(hook, lambda x, site: x + by * way.to(x), layers=LAYER)  # noqa: ARG005
        return float(target(lmm.run(encoding, graph=cut | edit).logits))

    step = 1e-3
    slope = (moved(step) - moved(-step)) / (2 * step)
    assert abs(slope) > 1e-3
    assert float((grad * way).sum()) == pytest.approx(slope, rel=2e-3, abs=1e-5)


@pytest.mark.parametrize("hook", nodes.HOOKS)
def test_every_hook_point_has_a_gradient_and_no_bit_changes(hook):
    lmm, encoding = tiny.lmm(), tiny.encode()
    probe = Gradient(hook, "logit of 7 at query")
    run = lmm.run(encoding, graph=probe)
    assert torch.equal(run.logits, tiny.plain(lmm, encoding))
    assert float(run[probe].values.abs().max()) > 1e-6
    assert run[probe].axes[-len(probe.axes) :] == probe.axes


@pytest.mark.parametrize("hook", [*MODULES, "attn.hook_pattern", "attn.hook_attn_scores"])
def test_a_plain_trace_has_them_too(hook):
    lmm, encoding = tiny.lmm(), tiny.encode()
    probe = Gradient(hook, OF, LAYER)
    wanted = lmm.run(encoding, graph=probe)[probe].values[0]
    with lmm.trace(encoding):
        value = lmm.hook(f"blocks.{LAYER}.{hook}")
        logits = lmm.hook("unembed.hook_out").save()
        loss = logits[0, -1, IDS[0]] - logits[0, -1, IDS[1]]
        with loss.backward():
            grad = value.grad.save()
    assert nodes.apart(grad, wanted) < 2e-5
    assert torch.equal(logits, tiny.plain(lmm, encoding))


def test_some_rows_and_an_answer():
    encoding = tiny.encode().with_answer("red blue")
    whole, part = Gradient("hook_resid_pre", OF, 1), Gradient("hook_resid_pre", OF, 1, rows="image")
    run = tiny.lmm().run(encoding, graph=whole | part)
    places = encoding.layout.mask("image")[0].nonzero().flatten()
    assert torch.equal(run[part].values, run[whole].values[:, :, places])
    assert run[part].labels("query") == tuple(places.tolist())


def test_what_has_no_gradient_is_refused():
    encoding, lmm = tiny.encode(), tiny.lmm()
    with pytest.raises(vi.CapabilityError, match="one forward pass; use run"):
        lmm.generate(encoding, graph=Gradient("hook_resid_pre", OF), max_new_tokens=2)
    with pytest.raises(vi.NotationError, match="logit of 'blue' at last"):
        Gradient("hook_resid_pre", "blue at last")
    with pytest.raises(vi.NotationError, match="lst"):
        Gradient("hook_resid_pre", "logit of 'blue' at lst")
    with pytest.raises(vi.InputError, match="is not one token"):
        lmm.run(encoding, graph=Gradient("hook_resid_pre", "logit of 'blue red' at last"))
    with pytest.raises(vi.LayoutError, match="no history token"):
        lmm.run(encoding, graph=Gradient("hook_resid_pre", "logit of 'blue' at history"))


@pytest.mark.parametrize("family", TINY)
def test_in_every_family_it_is_there_and_changes_no_bit(family):
    lmm = vi.LMM.tiny(family)
    encoding = lmm.encode(tiny.image(), "hello")
    layer = lmm.layers_with("attn.hook_pattern")[-1]
    names = ("attn.hook_pattern", "attn.hook_q", "attn.hook_v", "hook_resid_pre")
    probes = [Gradient(name, "logit of 7 at last", layer) for name in names]
    run = lmm.run(encoding, graph=vi.EditGraph(*probes))
    assert torch.equal(run.logits, tiny.plain(lmm, encoding))
    for probe in probes:
        grad = run[probe].values
        assert torch.isfinite(grad).all()
        assert float(grad.abs().max()) > 1e-8, probe
