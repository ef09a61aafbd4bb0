"""Hook functions written for TransformerLens."""

import pytest
import torch

import vsink_interp as vi
from tests import nodes, tiny


def test_it_is_told_where_it_is():
    seen = []

    def look(activation, hook):
        seen.append((hook.name, hook.layer(), tuple(activation.shape), hook.site.first_row))
        hook.ctx["kept"] = activation

    fns = vi.Fn("attn.hook_pattern", look, layers="1:3") | vi.Fn("ln_final.hook_out", look)
    tiny.lmm().generate(tiny.encode("short"), graph=fns, max_new_tokens=2)
    n = tiny.encode("short").layout.length
    assert seen == [
        ("blocks.1.attn.hook_pattern", 1, (1, 4, n, n), 0),
        ("blocks.2.attn.hook_pattern", 2, (1, 4, n, n), 0),
        ("ln_final.hook_out", None, (1, n, 64), 0),
        ("blocks.1.attn.hook_pattern", 1, (1, 4, 1, n + 1), n),
        ("blocks.2.attn.hook_pattern", 2, (1, 4, 1, n + 1), n),
        ("ln_final.hook_out", None, (1, 1, 64), n),
    ]


@pytest.mark.parametrize("hook", nodes.HOOKS)
def test_writing_in_place_equals_returning(hook):
    lmm, encoding = tiny.lmm(), tiny.encode()
    returned = lmm.generate(encoding, graph=vi.Fn(hook, nodes.grow), max_new_tokens=4)
    written = lmm.generate(encoding, graph=vi.Fn(hook, nodes.grow_in_place), max_new_tokens=4)
    assert torch.equal(returned.logits, written.logits)


@pytest.mark.parametrize("hook", nodes.HOOKS)
def test_returning_nothing_keeps_the_value(hook):
    lmm, encoding = tiny.lmm(), tiny.encode()
    kept = lmm.run(encoding, graph=vi.Fn(hook, lambda activation, hook: None)).logits  # noqa: ARG005
    assert nodes.apart(kept, tiny.plain(lmm, encoding)) < 2e-5


def test_a_change_of_shape_is_refused_with_the_axes():
    with pytest.raises(vi.CapabilityError, match=r"blocks\.0\.attn\.hook_z.*keeps the shape"):
        tiny.lmm().run(tiny.encode(), graph=vi.Fn("attn.hook_z", lambda x, hook: x[:, 1:]))  # noqa: ARG005


def test_site_gives_the_tokens():
    masks = []

    def look(activation, hook):
        del activation
        masks.append(hook.site.queries("image"))

    tiny.lmm().run(tiny.encode(), graph=vi.Fn("hook_mlp_out", look, layers=0))
    assert torch.equal(masks[0], tiny.encode().layout.mask("image"))


def test_functions_keep_what_they_compute_once_apart():
    """Two functions may give a tensor one name, also at one layer; the second gets its own."""

    def shifted(by, *, kept):
        def fn(value, hook):
            if kept:
                by_it = hook.site.once("shift", lambda _: torch.tensor(by))
            else:
                by_it = torch.tensor(by)
            return value + by_it

        return fn

    def graph(*, kept):
        return vi.Fn("hook_resid_pre", shifted(1.0, kept=kept), layers=1) | vi.Fn(
            "hook_resid_post", shifted(-5.0, kept=kept), layers=1
        )

    lmm, encoding = tiny.lmm(), tiny.encode()
    apart_, together = (lmm.run(encoding, graph=graph(kept=kept)).logits for kept in (False, True))
    assert torch.equal(apart_, together)
    assert not torch.equal(apart_, lmm.run(encoding).logits)


@pytest.mark.parametrize("hook", ["attn.hook_pattern", "attn.hook_rot_k", "hook_resid_pre"])
def test_what_a_function_returns_is_brought_to_the_precision_of_the_model(hook):
    """As float32 vectors do, that are added in a model of bfloat16."""
    lmm, encoding = tiny.lmm(torch.bfloat16), tiny.encode()
    wide = vi.Fn(hook, lambda value, hook: value.double() * 1.5)  # noqa: ARG005
    same = vi.Fn(hook, lambda value, hook: (value.double() * 1.5).to(value.dtype))  # noqa: ARG005
    run = lmm.generate(encoding, graph=wide, max_new_tokens=2)
    want = lmm.generate(encoding, graph=same, max_new_tokens=2)
    assert torch.equal(run.logits, want.logits)
    assert not torch.equal(run.logits, lmm.generate(encoding, max_new_tokens=2).logits)


def spoiled(number, *, in_place=False, later=False):
    """A function that writes a number that is none, in layer 1."""

    def fn(value, site):
        if site.layer not in (1, None) or (later and site.prefill):
            return None
        new = value if in_place else value.clone()
        new[..., -1] = number
        return new

    return fn


NAN, INF = float("nan"), float("inf")
RAN = {
    "run": lambda lmm, graph: lmm.run(tiny.encode(), graph=graph),
    "sampled": lambda lmm, graph: lmm.generate(
        tiny.encode(), graph=graph, max_new_tokens=3, do_sample=True, seed=0
    ),
}


@pytest.mark.parametrize(("how", "in_place"), [("run", False), ("sampled", True)])
@pytest.mark.parametrize("point", nodes.POINTS, ids=lambda point: point.template)
def test_what_is_no_number_is_refused_by_edit_and_layer(point, how, in_place):
    hook = point.name if point.stack == "blocks" else point.template
    edit, where = vi.Fn(hook, spoiled(NAN, in_place=in_place)), point.at(1 if point.stack else None)
    with pytest.raises(vi.CapabilityError) as raised:
        RAN[how](tiny.lmm(), edit)
    assert f"{edit!r} turned {where} in the prefill" in str(raised.value)


@pytest.mark.parametrize("hook", ["attn.hook_pattern", "hook_resid_post", "attn.hook_attn_scores"])
def test_in_a_decode_step_too_and_what_is_infinite(hook):
    edit = vi.Fn(hook, spoiled(INF, later=True))
    with pytest.raises(vi.CapabilityError, match=r"blocks\.1\.\S+ in a decode step, tokens 22"):
        tiny.lmm().generate(tiny.encode(), graph=edit, max_new_tokens=3)


def test_scores_and_logits_may_be_minus_infinity():
    def cut(value, site):
        del site
        value = value.clone()
        value[..., 1:9] = -torch.inf
        return value

    lmm, encoding = tiny.lmm(), tiny.encode()
    by_hand = lmm.run(encoding, graph=vi.Fn("attn.hook_attn_scores", cut, layers=2))
    assert by_hand.logits.isfinite().all()
    assert nodes.apart(by_hand.logits, lmm.run(encoding).logits) > 1e-3
    words = lmm.generate(encoding, graph=vi.Fn("unembed.hook_out", cut), max_new_tokens=2)
    assert words.logits[..., 1:9].isneginf().all()


def test_keys_that_left_the_cache_are_no_fault_of_the_function():
    """They are shown as NaN."""
    graph = vi.DropKeys("image") | vi.Fn("attn.hook_rot_k", lambda k, site: k * 1.5)  # noqa: ARG005
    assert tiny.lmm().generate(tiny.encode(), graph=graph, max_new_tokens=3).logits.isfinite().all()


def test_edits_of_ours_that_grow_too_large_are_named_with_the_graph():
    lmm = tiny.lmm(torch.float16)
    graph = vi.edits.Steer((6e4,) * tiny.WIDTH, layers=1) | vi.ScaleHeads(1e5)
    with pytest.raises(vi.CapabilityError, match=r"under .*Steer.* are not numbers"):
        lmm.run(tiny.encode(), graph=graph)
