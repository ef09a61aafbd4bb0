"""VAR: which layers and rows it touches, and what it refuses. Its values: `test_laws.py`."""

import pytest
import torch

import vsink_interp as vi
from tests import nodes, tiny
from vsink_interp.probes import Pattern, SinkValue

LOOSE = {"rho": 0.2, "min_image_mass": 0.05, "p": 0.7}


def changed(mode, graph=None, **more):
    """Per layer, the rows whose pattern VAR itself changes."""
    lmm, encoding, probe = tiny.lmm(), tiny.encode(), Pattern("all")
    edit = vi.VAR(**LOOSE, mode=mode, **more)
    run = lmm.run(encoding, graph=(graph or vi.EditGraph()) | probe | edit | probe)
    before, after = (run[f"{probe!r}#{i}"].values[:, 0] for i in (1, 2))
    return (before - after).abs().amax((1, 3)) > 1e-6


@pytest.mark.parametrize(
    ("mode", "touched"), [("paper", {0, 1, 2}), ("released-code", {2, 3})]
)  # fmt: skip
def test_each_mode_leaves_its_own_layers(mode, touched):
    rows = changed(mode)
    assert {layer for layer in range(4) if rows[layer].any()} == touched
    query = tiny.encode().layout.mask("query")[0]
    assert not rows[:, ~query].any()
    assert rows[:, query].any()


def test_layers_narrow_it_further():
    rows = changed("paper", layers="1:")
    assert [bool(row.any()) for row in rows] == [False, True, True, False]


@pytest.mark.parametrize(
    ("mode", "last", "touched"),
    [
        ("paper", True, {0, 1, 2, 3}),
        ("paper", False, {0, 1, 2}),
        ("released-code", False, {2}),
        ("released-code", True, {2, 3}),
    ],
)
def test_the_last_layer_is_an_option(mode, last, touched):
    rows = changed(mode, last_layer=last)
    assert {layer for layer in range(4) if rows[layer].any()} == touched
    assert vi.VAR(last_layer=True, layers=3).resolved_layers(4) == (3,)


def test_the_plan_says_what_a_mode_leaves_out():
    plan = tiny.lmm().plan
    assert str(plan(vi.VAR(layers="1:"))).endswith("layers 1, 2; leaves out 3")
    assert str(plan(vi.VAR(mode="released-code"))).endswith("layers 2, 3; leaves out 0, 1")
    both = vi.VAR(last_layer=True) | vi.probes.SinkValue(layers="2:") | vi.DropKeys("image", 1)
    lines = str(plan(both)).splitlines()
    assert lines[0].endswith("at attn.hook_pattern: layers 0, 1, 2, 3")
    assert lines[1].endswith("at hook_resid_pre: layers 2, 3")
    assert lines[2].endswith("at cache: layers 1")
    assert str(plan(vi.probes.Logits())).endswith("outside the layers")
    assert str(plan(None)) == "empty plan"
    with pytest.raises(vi.NotationError, match="no layer 9"):
        plan(vi.VAR(layers=9))


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (vi.VAR(layers=-1), "names .*0 to 2 only"),
        (vi.VAR(layers="0:2", mode="released-code"), "names .*2 to 3 only"),
        (vi.VAR(layers="9:"), "no layer 9"),
    ],
)
def test_a_var_that_acts_nowhere_is_refused(edit, why):
    with pytest.raises(vi.NotationError, match=why):
        tiny.lmm().run(tiny.encode(), graph=edit)


def test_a_prompt_without_image_is_refused():
    with pytest.raises(vi.LayoutError, match="no image token"):
        tiny.lmm().run(tiny.encode("text"), graph=vi.VAR())


@pytest.mark.parametrize(
    "options",
    [{"p": 1.1}, {"p": -0.1}, {"rho": 2.0}, {"min_image_mass": -1.0}, {"p": float("nan")}],
)
def test_shares_lie_between_0_and_1(options):
    with pytest.raises(vi.NotationError, match="share from 0 to 1"):
        vi.VAR(**options)


def test_a_tau_that_no_token_can_reach_is_refused():
    """phi is at most the root of the width: 8."""
    lmm, encoding = tiny.lmm(), tiny.encode()
    for tau in (0.0, -1.0, 8.01):
        with pytest.raises(vi.NotationError, match="can never be reached"):
            lmm.run(encoding, graph=vi.VAR(tau=tau))
    assert (
        nodes.apart(lmm.run(encoding, graph=vi.VAR(tau=8.0)).logits, tiny.plain(lmm, encoding))
        < 2e-5
    )


def test_sinks_see_the_edits_before_them():
    """phi is taken from the residual stream that enters, edited as it is."""
    grow = vi.Fn("hook_resid_pre", lift_sink_dimension, layers=0)
    lmm, encoding = tiny.lmm(), tiny.encode()
    var = vi.VAR(**LOOSE, layers=0)
    alone, both = (lmm.run(encoding, graph=g).logits for g in (grow, grow | var))
    assert nodes.apart(alone, both) > 1e-3
    assert torch.equal(both, lmm.run(encoding, graph=var | grow).logits)


def test_sinks_see_the_edits_of_earlier_layers():
    """Whether the residual stream is edited as it leaves a layer, or as it enters the next."""
    leaves = vi.Fn("hook_resid_post", lift_sink_dimension, layers=0)
    enters = vi.Fn("hook_resid_pre", lift_sink_dimension, layers=1)
    lmm, encoding = tiny.lmm(), tiny.encode()
    var = vi.VAR(**LOOSE, layers=1)
    by_hook, by_stop = (lmm.run(encoding, graph=edit | var).logits for edit in (leaves, enters))
    assert nodes.apart(by_hook, lmm.run(encoding, graph=leaves).logits) > 1e-3
    assert torch.equal(by_hook, by_stop)


def test_generated_tokens_are_sinks_online_only():
    """Each form equals full eager attention (`test_laws.py`); here, that they differ, and when."""
    lmm, encoding = tiny.lmm(), tiny.encode()
    phi = SinkValue("generated")
    online, prefill, released = (
        lmm.generate(encoding, graph=vi.VAR(**LOOSE, sinks_from=source) | phi, max_new_tokens=8)
        for source in ("online", "prefill", None)
    )
    assert (online[phi].values >= tiny.SINKS.tau).any(), "no generated token is a sink"
    assert torch.equal(online.logits, released.logits), "the paper's form"
    assert torch.equal(online.logits[:, 0], prefill.logits[:, 0])
    assert nodes.apart(online.logits, prefill.logits) > 1e-3
    theirs = {"rho": 0.8, "p": 0.3, "min_image_mass": 0.05, "mode": "released-code"}
    same, other = (
        lmm.generate(encoding, graph=vi.VAR(**theirs, sinks_from=source), max_new_tokens=8).logits
        for source in (None, "prefill")
    )
    assert torch.equal(same, other)


def test_where_sinks_come_from_is_one_of_two():
    with pytest.raises(vi.NotationError, match="prefill, online"):
        vi.VAR(sinks_from="decode")


def lift_sink_dimension(resid, hook):
    resid = resid.clone()
    resid[:, hook.site.layout.mask("image")[0][: resid.shape[1]].int().argmax(), 3] += 50.0
    return resid


def test_the_defaults_are_published_settings():
    """Kang et al. (2025), general questions; the configuration that the authors' code ships."""
    assert vi.VAR() == vi.VAR(p=0.6, rho=0.8, min_image_mass=0.2)
    assert vi.VAR(mode="released-code") == vi.VAR(0.6, 0.5, 0.2, mode="released-code")
    assert eval(repr(vi.VAR()), {"VAR": vi.VAR}) == vi.VAR()
