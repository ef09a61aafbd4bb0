"""Plain nnsight traces with our names: reading changes nothing, writing acts."""

import pytest
import torch

import vsink_interp as vi
from tests import nodes, tiny
from tests.nodes import apart
from vsink_interp import probes
from vsink_interp.engine.execute import interruptible

ATTENTIONS = ("sdpa", "eager")
TRACED = [point for point in nodes.POINTS if point.name != "attn.hook_result"]
NAMES = [point.at(None if point.stack is None else 1) for point in TRACED]


def every_name(test):
    return pytest.mark.parametrize("name", NAMES)(test)


@pytest.mark.parametrize("attention", ATTENTIONS)
@every_name
def test_reading_gives_the_value_and_changes_no_bit(name, attention):
    lmm, encoding = tiny.lmm(attention=attention), tiny.batch("one image", "short")
    with lmm.trace(encoding):
        value = lmm.hook(name).save()
        output = lmm.nnsight.output.save()
    assert torch.equal(output.logits, tiny.plain(lmm, encoding))
    point = TRACED[NAMES.index(name)]
    hook = point.template if point.stack == "vision_encoder.blocks" else point.name
    probe = probes.Activation(hook, ":" if point.stack is None else 1)
    want = lmm.run(encoding, graph=probe)[probe].values
    torch.testing.assert_close(value, want if point.stack is None else want[0])


@pytest.mark.parametrize("attention", ATTENTIONS)
@every_name
def test_writing_in_place_acts_as_the_same_edit_does(name, attention):
    lmm, encoding = tiny.lmm(attention=attention), tiny.encode()
    with lmm.trace(encoding):
        lmm.hook(name)[...] = lmm.hook(name) * 1.5
        output = lmm.nnsight.output.save()
    assert apart(output.logits, tiny.plain(lmm, encoding)) > 1e-3
    point = TRACED[NAMES.index(name)]
    hook = point.template if point.stack == "vision_encoder.blocks" else point.name
    layers = ":" if point.stack is None else 1
    want = lmm.run(encoding, graph=vi.Fn(hook, nodes.grow, layers=layers)).logits
    assert apart(output.logits, want) < 2e-5


def test_several_hook_points_in_forward_order():
    lmm, encoding = tiny.lmm(), tiny.encode()
    with lmm.trace(encoding):
        entering = lmm.hook("blocks.0.hook_resid_pre").save()
        lmm.hook("blocks.0.attn.hook_attn_scores")[:, 2, :, 3:6] = -torch.inf
        pattern = lmm.hook("blocks.0.attn.hook_pattern").save()
        lmm.hook("blocks.2.attn.hook_pattern")[:, 0] = 0
        logits = lmm.hook("unembed.hook_out").save()
    assert (pattern[:, 2, 6:, 3:6] == 0).all()
    torch.testing.assert_close(pattern[:, 2, 6:].sum(-1), torch.ones(1, 16))
    resid = probes.Resid(at="pre", layers=0)
    assert torch.equal(entering, lmm.run(encoding, graph=resid)[resid].values[0])
    assert apart(logits, tiny.plain(lmm, encoding)) > 0.05


def test_a_generating_trace_edits_every_step():
    lmm, encoding = tiny.lmm(), tiny.encode()
    with lmm.trace(encoding, max_new_tokens=4) as tracer:
        rows = [].save()
        logits = [].save()
        for _ in tracer.iter[:4]:
            lmm.hook("blocks.1.attn.hook_pattern")[...] = (
                lmm.hook("blocks.1.attn.hook_pattern") * 1.5
            )
            rows.append(lmm.hook("blocks.2.attn.hook_pattern"))
            logits.append(lmm.hook("unembed.hook_out")[:, -1])
    n = encoding.layout.length
    assert [tuple(row.shape[2:]) for row in rows] == [(n, n), (1, n + 1), (1, n + 2), (1, n + 3)]
    edit = vi.Fn("attn.hook_pattern", nodes.grow, layers=1)
    want = lmm.generate(encoding, graph=edit, max_new_tokens=4)
    assert apart(torch.stack(logits, 1), want.logits) < 2e-5
    assert apart(want.logits, lmm.generate(encoding, max_new_tokens=4).logits) > 0.05


def test_edits_of_nnsight_compose():
    lmm, encoding = tiny.fresh(), tiny.encode()
    with lmm.nnsight.edit() as (_, edited):
        edited.model.language_model.layers[1].output[...] = 0
    plain = tiny.plain(lmm, encoding)
    with edited.trace(**encoding.inputs):
        logits = edited.lm_head.output.save()
    assert apart(logits, plain) > 0.1
    assert torch.equal(lmm.run(encoding).logits, plain), "the edit is a copy's own"


def test_an_edit_of_nnsight_in_place_acts_in_runs_where_no_node_waits_too():
    lmm, encoding = tiny.fresh(), tiny.encode()
    plain = tiny.plain(lmm, encoding)
    with lmm.nnsight.edit(inplace=True):
        lmm.nnsight.model.language_model.layers[1].output[...] = 0
    for graph in (None, vi.probes.SegmentMass()):
        assert apart(lmm.run(encoding, graph=graph).logits, plain) > 0.1
    lmm.nnsight.clear_edits()
    assert torch.equal(lmm.run(encoding).logits, plain)


def test_a_trace_is_disarmed_by_an_exception():
    lmm, encoding = tiny.fresh(), tiny.encode()
    plain = tiny.plain(lmm, encoding)
    with pytest.raises(ZeroDivisionError), lmm.trace(encoding):
        pattern = lmm.hook("blocks.1.attn.hook_pattern")
        pattern[...] = 1 // 0
    assert lmm.hf_model.config.get_text_config()._attn_implementation == "sdpa"
    assert torch.equal(tiny.plain(lmm, encoding), plain)
    assert torch.equal(lmm.run(encoding).logits, plain)


def test_gradients_reach_the_pattern():
    lmm, encoding = tiny.lmm(), tiny.encode()
    with lmm.trace(encoding):
        pattern = lmm.hook("blocks.1.attn.hook_pattern")
        nudge = torch.zeros_like(pattern).requires_grad_(True).save()
        pattern[...] = pattern + nudge
        loss = lmm.hook("unembed.hook_out")[0, -1].max().save()
    (gradient,) = torch.autograd.grad(loss, nudge)
    assert gradient.abs().max() > 1e-3


@pytest.mark.parametrize(
    ("name", "error", "why"),
    [
        ("blocks.1.attn.hook_patern", vi.NotationError, "did you mean"),
        ("attn.hook_pattern", vi.NotationError, "needs its layer"),
        ("blocks.4.attn.hook_pattern", vi.NotationError, "layers 0 to 3"),
        ("vision_encoder.blocks.2.hook_mlp_out", vi.NotationError, "layers 0 to 1"),
        ("blocks.1.attn.hook_pattern", vi.InputError, "only inside"),
    ],
)
def test_a_hook_that_is_not_there_is_refused(name, error, why):
    with pytest.raises(error, match=why):
        tiny.lmm().hook(name)


def test_head_results_are_read_by_runs_alone():
    lmm = tiny.lmm()
    with (
        pytest.raises(vi.CapabilityError, match=r"use Fn\('attn.hook_result'"),
        lmm.trace(tiny.encode()),
    ):
        _ = lmm.hook("blocks.1.attn.hook_result").save()


def test_an_interrupt_stays_one_where_nnsight_fails_over_its_traceback():
    """In Python 3.11 a frame that an interrupt meets may have no line."""
    with pytest.raises(KeyboardInterrupt), interruptible():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise TypeError("'NoneType' object cannot be interpreted as an integer")  # noqa: B904
    with pytest.raises(TypeError, match="another"), interruptible():
        raise TypeError("another")
