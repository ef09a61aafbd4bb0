"""A run leaves the model, and everything global, exactly as it was."""

import contextlib
import gc

import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import vsink_interp as vi
from tests import nodes, tiny
from vsink_interp import probes

HOOK_DICTS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def state(lmm):
    """Whatever a run could leave behind."""
    model = lmm.hf_model
    configs = [model.config, model.config.get_text_config(), model.config.vision_config]
    configs += [model.model.language_model.layers[0].self_attn.config]
    return {
        "attributes": {
            name: {key: id(value) for key, value in vars(module).items()}
            for name, module in model.named_modules()
        },
        "hooks": {
            name: [list(getattr(module, kind)) for kind in HOOK_DICTS]
            for name, module in model.named_modules()
        },
        "weights": {
            name: (weight.data_ptr(), weight._version, weight.requires_grad, weight.grad)
            for name, weight in model.named_parameters()
        },
        "attention": [config._attn_implementation for config in configs],
        "configs": [config.to_dict() for config in configs],
        "generation": model.generation_config.to_dict(),
        "registries": [
            {name: id(registry[name]) for name in registry}
            for registry in (ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS)
        ],
        "points": [
            {name: len(vars(envoy._module)["_forward_hooks"]) for name, envoy in points.items()}
            for points in lmm.hooked.points
        ],
        "torch": (
            torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype(),
        ),
        "training": model.training,
    }  # fmt: skip


class StopError(Exception):
    """Raised inside a run."""


def failing_edit(hook, error, *, after=0):
    calls = []

    def fail(value, hook):
        del value, hook
        calls.append(0)
        if len(calls) > after:
            raise error
        return None  # noqa: RET501

    return vi.Fn(hook, fail, layers="2" if hook.startswith(("attn", "hook_resid")) else ":")


def failing_probe(error):
    @vi.probe("attn.hook_pattern")
    def fail(pattern, site) -> Float[Tensor, "batch head query key"]:
        del pattern, site
        raise error

    return fail


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def lmm(request):
    fresh = tiny.fresh(request.param)
    fresh.run(tiny.encode())  # nnsight prepares its modules on their first use
    return fresh


CUT = vi.Knockout("image -> query", ":2")
EVERYTHING = vi.EditGraph(*nodes.PROBES.values()) | vi.VAR(rho=0.2) | CUT


@pytest.mark.parametrize("graph", [None, EVERYTHING], ids=["empty", "everything"])
def test_runs_leave_nothing(lmm, graph):
    before = state(lmm)
    lmm.run(tiny.encode(), graph=graph)
    assert state(lmm) == before
    lmm.generate(tiny.encode(), graph=graph, max_new_tokens=3)
    assert state(lmm) == before


HOOKS = ("hook_embed", "hook_resid_mid", "attn.hook_q", "attn.hook_attn_scores",
         "attn.hook_pattern", "attn.hook_z",
         "vision_projector.hook_out", "unembed.hook_out")  # fmt: skip


@pytest.mark.parametrize(
    "error", [StopError("on purpose"), KeyboardInterrupt()], ids=["error", "stop"]
)
@pytest.mark.parametrize("hook", HOOKS)
def test_an_exception_inside_an_edit_comes_out_and_leaves_nothing(lmm, hook, error):
    encoding, before = tiny.encode(), state(lmm)
    plain = tiny.plain(lmm, encoding)
    with pytest.raises(type(error)):
        lmm.run(encoding, graph=failing_edit(hook, error) | vi.Knockout("image -> query"))
    assert state(lmm) == before
    with pytest.raises(type(error)):
        lmm.generate(encoding, graph=failing_edit(hook, error), max_new_tokens=4)
    assert state(lmm) == before
    assert torch.equal(lmm.run(encoding).logits, plain), "the next run works"
    assert torch.equal(tiny.plain(lmm, encoding), plain)


@pytest.mark.parametrize("hook", ["hook_resid_mid", "attn.hook_pattern", "unembed.hook_out"])
def test_an_exception_in_a_decode_step_leaves_nothing(lmm, hook):
    before = state(lmm)
    with pytest.raises(StopError):
        lmm.generate(
            tiny.encode(), graph=failing_edit(hook, StopError(), after=2), max_new_tokens=6
        )
    assert state(lmm) == before


def test_an_exception_inside_a_probe_leaves_nothing(lmm):
    before = state(lmm)
    for error in (StopError(), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            lmm.run(tiny.encode(), graph=failing_probe(error) | vi.VAR(rho=0.2))
        assert state(lmm) == before


@pytest.mark.parametrize("step", [0, 2], ids=["prefill", "decode"])
@pytest.mark.parametrize("part", ["self_attn", "mlp"])
def test_an_interrupt_in_the_middle_of_the_model_leaves_nothing(lmm, part, step):
    """Ctrl-C comes where the model computes, not where an edit does."""
    passes, graph = [], vi.VAR(rho=0.2) | vi.Knockout("image -> generated") | probes.SegmentMass()

    def interrupt(module, args):
        del module, args
        passes.append(0)
        if len(passes) > step:
            raise KeyboardInterrupt

    before = state(lmm)
    want = lmm.generate(tiny.encode(), graph=graph, max_new_tokens=4).logits
    hook = getattr(lmm.hooked.layers[2], part).register_forward_pre_hook(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            lmm.generate(tiny.encode(), graph=graph, max_new_tokens=4)
    finally:
        hook.remove()
    assert state(lmm) == before
    assert torch.equal(lmm.generate(tiny.encode(), graph=graph, max_new_tokens=4).logits, want)


def test_a_refused_graph_leaves_nothing(lmm):
    before = state(lmm)
    with pytest.raises(vi.LayoutError):
        lmm.run(tiny.encode(), graph=vi.Knockout("image[4] -> query"))
    with pytest.raises(vi.LayoutError):
        lmm.run(tiny.encode(), graph=vi.Knockout("all -> sink") | vi.Knockout("all -> query"))
    with pytest.raises(vi.CapabilityError):
        lmm.run(tiny.encode(), graph=vi.Fn("hook_embed", lambda x, hook: x[:, 1:]))  # noqa: ARG005
    with pytest.raises(vi.CapabilityError):
        lmm.run(tiny.encode(), graph=vi.Fn("attn.hook_z", lambda x, hook: x[:, 1:]))  # noqa: ARG005
    assert state(lmm) == before


def test_the_inputs_stay_as_they_were(lmm):
    encoding = tiny.batch()
    before = {name: value.clone() for name, value in encoding.inputs.items()}
    segments = encoding.layout.segments.clone()
    lmm.generate(encoding, graph=EVERYTHING, max_new_tokens=3)
    assert before.keys() == encoding.inputs.keys()
    assert all(torch.equal(before[name], encoding.inputs[name]) for name in before)
    assert torch.equal(segments, encoding.layout.segments)


def test_runs_do_not_see_each_other(lmm):
    """Neither sinks nor records of one prompt reach the next."""
    graph = vi.VAR(rho=0.2, min_image_mass=0.1) | probes.SinkValue() | probes.Pattern()
    alone = lmm.generate(tiny.encode("short"), graph=graph, max_new_tokens=3)
    lmm.generate(tiny.encode("two images"), graph=graph, max_new_tokens=5)
    again = lmm.generate(tiny.encode("short"), graph=graph, max_new_tokens=3)
    assert torch.equal(alone.logits, again.logits)
    for probe in (probes.SinkValue(), probes.Pattern()):
        assert torch.equal(alone[probe].values, again[probe].values)


def test_nothing_of_a_run_is_kept_alive(lmm):
    def held():
        gc.collect()
        return sum(1 for thing in gc.get_objects() if type(thing) is Tensor)

    lmm.run(tiny.encode(), graph=EVERYTHING)
    before = held()
    for _ in range(3):
        lmm.run(tiny.encode(), graph=EVERYTHING)
        with contextlib.suppress(StopError):
            lmm.run(tiny.encode(), graph=failing_edit("attn.hook_pattern", StopError()))
    assert held() <= before + 2


def test_two_models_at_once():
    """One runs inside a hook function of the other; both give what they give alone."""
    one, other = tiny.fresh(), tiny.fresh("eager", seed=1)
    encoding, edit = tiny.encode(), vi.Knockout("image -> query")
    inner = []

    def run_other(value, hook):
        del hook, value
        inner.append(other.run(encoding, graph=edit).logits)

    outer = one.run(encoding, graph=vi.Fn("hook_resid_mid", run_other, layers=1) | edit).logits
    assert torch.equal(outer, tiny.fresh().run(encoding, graph=edit).logits)
    assert torch.equal(inner[0], other.run(encoding, graph=edit).logits)
    assert nodes.apart(outer, inner[0]) > 0.1


def test_two_lmms_of_one_model():
    hf = tiny.hf_model()
    first, second = (vi.LMM(hf, tiny.processor(), sinks=tiny.SINKS) for _ in range(2))
    edit = vi.VAR(rho=0.2, min_image_mass=0.1)
    want = tiny.lmm().run(tiny.encode(), graph=edit).logits
    for lmm in (first, second, first):
        assert torch.equal(lmm.run(tiny.encode(), graph=edit).logits, want)
        assert torch.equal(lmm.run(tiny.encode()).logits, tiny.plain(tiny.lmm(), tiny.encode()))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_every_gradient_mode_gives_the_same(mode):
    graph = vi.VAR(rho=0.2, min_image_mass=0.1) | vi.Fn("hook_resid_pre", nodes.grow_in_place)
    want = tiny.lmm().generate(tiny.encode(), graph=graph, max_new_tokens=3)
    with mode():
        lmm = tiny.lmm()
        encoding = lmm.encode(*tiny.PROMPTS["one image"])
        got = lmm.generate(encoding, graph=graph, max_new_tokens=3)
        assert torch.equal(
            lmm.run(encoding, graph=graph).logits, lmm.run(tiny.encode(), graph=graph).logits
        )
    assert torch.equal(got.logits, want.logits)
    assert not got.logits.requires_grad


@pytest.mark.parametrize("name", ["flex_attention", "flash_attention_2", "my_attention"])
def test_attention_with_masks_of_another_kind_is_refused(name):
    lmm = tiny.fresh()
    lmm.run(tiny.encode())
    config = lmm.hooked.layers[0].self_attn.config
    config._attn_implementation = name
    before = state(lmm)
    for graph in (None, vi.Knockout("image -> query")):
        with pytest.raises(vi.CapabilityError, match=f"{name}.*attn_implementation='sdpa'"):
            lmm.run(tiny.encode(), graph=graph)
        assert state(lmm) == before


def test_attention_of_ones_own_with_a_usual_mask_is_the_base():
    """Registered with transformers beside a mask function, as its documentation says."""
    lmm, encoding, edit = tiny.fresh(), tiny.batch(), vi.Knockout("image -> query")
    config = lmm.hooked.layers[0].self_attn.config
    calls = []

    def attention(*args, **kwargs):
        calls.append(0)
        return ALL_ATTENTION_FUNCTIONS["sdpa"](*args, **kwargs)

    ALL_ATTENTION_FUNCTIONS["my_attention"] = attention
    ALL_MASK_ATTENTION_FUNCTIONS.register("my_attention", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    config._attn_implementation = "my_attention"
    try:  # opened with it, for one that is set later was not tried
        anew = vi.LMM(lmm.hf_model, lmm.processor, sinks=tiny.SINKS, check=False)
        got = anew.run(encoding, graph=edit).logits
    finally:
        del ALL_ATTENTION_FUNCTIONS["my_attention"]
        del ALL_MASK_ATTENTION_FUNCTIONS._global_mapping["my_attention"]
    assert calls
    assert torch.equal(got, tiny.lmm().run(encoding, graph=edit).logits)
