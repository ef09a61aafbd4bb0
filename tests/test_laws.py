"""What must always hold, over every edit and every probe."""

import inspect
from dataclasses import replace
from functools import cache
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import vsink_interp as vi
from tests import nodes, restated, tiny
from tests.nodes import EDITS, PROBES, apart, encoding_for, prompt_for, real
from vsink_interp import probes as probes_module
from vsink_interp.engine import row_program
from vsink_interp.graph.graph import CacheEdit

ATTENTIONS = ("sdpa", "eager")
NEAR = 4e-5  # rounding of fp32 logits of size 5; how much depends on the processor
"""How far sums in another order may bring logits of about 6 apart, in fp32."""


plain_logits = cache(tiny.plain)


def every(named):
    return pytest.mark.parametrize("name", named)


def classes(module, base):
    return {
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, base) and not inspect.isabstract(value)
    }


def test_the_laws_go_over_every_edit_and_probe():
    assert {type(edit) for edit in EDITS.values()} == classes(vi.edits, vi.Edit)
    # Apart: `families/test_learned_sinks.py`, for no model here has any; `probes/test_gradient.py`.
    elsewhere = {probes_module.LearnedSinkMass, probes_module.Gradient}
    known = {type(probe) for probe in PROBES.values()}
    assert known == classes(probes_module, vi.Probe) - elsewhere
    assert {type(edit) for edit in nodes.DROPS.values()} == classes(vi.edits, CacheEdit)
    assert set(nodes.FNS) == set(nodes.ACTIVATIONS) == set(nodes.HOOKS)
    assert len(tiny.lmm().hooks) == len(set(nodes.HOOKS)) == len(vi.HOOKS) - len(nodes.NORMED)


# 1. What edits nothing changes no bit.


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("prompt", [*tiny.PROMPTS, "batch"])
def test_an_empty_graph_changes_no_bit(prompt, attention):
    lmm = tiny.lmm(attention=attention)
    encoding = tiny.batch() if prompt == "batch" else tiny.encode(prompt)
    assert torch.equal(lmm.run(encoding).logits, plain_logits(lmm, encoding))


@pytest.mark.parametrize("attention", ATTENTIONS)
@every(PROBES)
def test_a_probe_changes_no_bit(name, attention):
    lmm, encoding = tiny.lmm(attention=attention), tiny.batch("one image", "short")
    run = lmm.run(encoding, graph=PROBES[name])
    assert torch.equal(run.logits, plain_logits(lmm, encoding))
    values = run[PROBES[name]].values
    assert len(values.flatten().float().nan_to_num().unique()) > 3, "the record is constant"


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("graph", [None, vi.EditGraph(*PROBES.values())], ids=["empty", "probes"])
def test_greedy_ids_are_those_of_generate(graph, attention):
    lmm, encoding = tiny.lmm(attention=attention), tiny.batch()
    plain = lmm.hf_model.generate(
        **encoding.inputs, max_new_tokens=6, return_dict_in_generate=True, output_logits=True
    )
    run = lmm.generate(encoding, graph=graph, max_new_tokens=6)
    assert torch.equal(run.ids, plain.sequences)
    assert torch.equal(run.logits, torch.stack(plain.logits, 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_probes_change_no_bit_in_half_precision(attention, dtype):
    lmm, encoding = tiny.lmm(dtype, attention), tiny.batch("one image", "short")
    run = lmm.run(encoding, graph=vi.EditGraph(*PROBES.values()))
    assert torch.equal(run.logits, plain_logits(lmm, encoding))


# 2. Graphs are values.

node_lists = st.lists(
    st.sampled_from([*nodes.VALUES.values(), *nodes.PORTABLE_PROBES.values()]), max_size=5
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(node_lists, node_lists, node_lists)
def test_joining_is_associative_with_the_empty_graph_as_unit(a, b, c):
    first, second, third = vi.EditGraph(*a), vi.EditGraph(*b), vi.EditGraph(*c)
    assert (first | second) | third == first | (second | third)
    assert hash((first | second) | third) == hash(first | (second | third))
    assert vi.EditGraph() | first == first == first | vi.EditGraph()
    assert list(first | second) == a + b


@settings(max_examples=40, deadline=None, derandomize=True)
@given(node_lists)
def test_a_graph_comes_back_from_its_repr_and_its_json(found):
    graph = vi.EditGraph(*found)
    names = {n: getattr(vi, n) for n in vi.__all__} | vars(vi.edits) | vars(probes_module)
    assert eval(repr(graph), dict(names)) == graph
    assert vi.EditGraph.from_json(graph.to_json()) == graph
    assert repr(vi.EditGraph.from_json(graph.to_json())) == repr(graph)


ONE_PER_HOOK = list(
    {edit.hook: name for name, edit in {**nodes.FNS, **nodes.PORTABLE}.items()}.values()
)
PAIRS = list(combinations(ONE_PER_HOOK, 2))
SOME = np.random.default_rng(0).choice(len(PAIRS), 70, replace=False)


@pytest.mark.parametrize(("one", "other"), [PAIRS[i] for i in sorted(SOME)])
def test_edits_on_different_hook_points_commute(one, other):
    lmm, encoding = tiny.lmm(), encoding_for(one)
    first = lmm.run(encoding, graph=EDITS[one] | EDITS[other]).logits
    assert torch.equal(first, lmm.run(encoding, graph=EDITS[other] | EDITS[one]).logits)
    assert apart(first, lmm.run(encoding, graph=EDITS[one]).logits) > 1e-4


def test_edits_on_one_hook_point_act_left_to_right():
    lmm, encoding = tiny.lmm(), tiny.encode()
    write = vi.Fn("hook_resid_mid", lambda x, hook: x * 0 + 1)  # noqa: ARG005
    add = vi.Fn("hook_resid_mid", lambda x, hook: x + 2)  # noqa: ARG005
    probe = probes_module.Resid(at="mid")
    assert (lmm.run(encoding, graph=write | add | probe)[probe].values == 3).all()
    assert (lmm.run(encoding, graph=add | write | probe)[probe].values == 1).all()
    before = lmm.run(encoding, graph=probe | write)[probe].values[0]
    assert torch.equal(before, lmm.run(encoding, graph=probe)[probe].values[0])


# 3. Mass is kept, cut edges are zero.


def patterns(lmm, encoding, edit, probe=None):
    probe = probe or probes_module.Pattern("all")
    return lmm.run(encoding, graph=edit | probe)[probe].values


@cache
def unedited_patterns(prompt, attention):
    return patterns(tiny.lmm(attention=attention), tiny.batch(prompt, "image last"), vi.EditGraph())


@pytest.mark.parametrize("attention", ATTENTIONS)
@every([name for name in nodes.PORTABLE if name not in nodes.SHRINKING])
def test_rows_of_the_pattern_sum_to_one_after_an_edit(name, attention):
    encoding = tiny.batch(prompt_for(name), "image last")
    after = patterns(tiny.lmm(attention=attention), encoding, EDITS[name])
    sums = after.sum(-1)
    keep = real(encoding)[None, :, None].expand_as(sums)
    torch.testing.assert_close(sums[keep], torch.ones_like(sums[keep]), atol=2e-6, rtol=0)
    before = unedited_patterns(prompt_for(name), attention)
    assert apart(after, before) > 0.01, "nothing changed"


@every(nodes.SHRINKING)
def test_rows_sum_to_less_where_an_edit_gives_nothing_in_return(name):
    encoding = tiny.batch(prompt_for(name), "image last")
    sums = patterns(tiny.lmm(), encoding, EDITS[name]).sum(-1)
    assert 0 < sums[..., -1].min() < 0.9
    assert sums.max() < 1 + 2e-6


@pytest.mark.parametrize("attention", ATTENTIONS)
@every(["image to query", "image to generated", "query to itself", "their query tokens"])
def test_cut_edges_are_exactly_zero_and_only_those(name, attention):
    lmm, encoding, edit = tiny.lmm(attention=attention), tiny.batch(), EDITS[name]
    flow = vi.edits.knockout.parse_flow(edit.flow)
    after = patterns(lmm, encoding, edit)
    rows, columns = encoding.layout.mask(flow.target), encoding.layout.mask(flow.source)
    edges = (rows[:, :, None] & columns[:, None])[:, None]
    seen = torch.ones(edges.shape[-2:]).tril().bool() & real(encoding)[:, None, None]
    seen = seen & real(encoding)[:, None, :, None]
    cut = [after[layer].masked_select(edges & seen) for layer in edit.resolved_layers(tiny.LAYERS)]
    assert min(len(c) for c in cut) > 100
    assert all((c == 0).all() for c in cut)
    for layer in range(tiny.LAYERS):
        acts = layer in edit.resolved_layers(tiny.LAYERS)
        left = after[layer].masked_select(seen & ~(edges & torch.tensor(acts)))
        assert (left > 0).all(), layer


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("mode", ["paper", "released-code"])
def test_var_without_sinks_changes_nothing(mode, attention):
    lmm, encoding = tiny.lmm(attention=attention), tiny.encode()
    for loose, tau in ((True, 1.2), (False, 7.9)):  # phi lies below the root of 64
        run = lmm.run(
            encoding, graph=vi.VAR(p=0.5, rho=0.5, min_image_mass=0.0, mode=mode, tau=tau)
        )
        change = apart(run.logits, plain_logits(lmm, encoding))
        assert change > 0.1 if loose else change < NEAR


@pytest.mark.parametrize("attention", ATTENTIONS)
@every(EDITS)
def test_every_edit_acts(name, attention):
    lmm, encoding = tiny.lmm(attention=attention), encoding_for(name)
    assert apart(lmm.run(encoding, graph=EDITS[name]).logits, plain_logits(lmm, encoding)) > 0.1


@cache
def unedited_answer(prompt):
    return tiny.lmm().generate(tiny.encode(prompt), max_new_tokens=4)


@every(EDITS)
def test_every_edit_acts_in_decode(name):
    """From the second token on, where the hook point occurs there."""
    plain = unedited_answer(prompt_for(name))
    edited = tiny.lmm().generate(encoding_for(name), graph=EDITS[name], max_new_tokens=4)
    assert apart(plain.logits[:, 1:], edited.logits[:, 1:]) > 0.1


# 4. Batches, padding and the cache change nothing.

NEEDS_IMAGE = {"maps", "maps of the prompt", "ratio"}


def alone_and_together():
    """Per prompt of a batch: its number, padding, and encoding of its own."""
    together = tiny.batch()
    width = together.layout.length
    for i, prompt in enumerate(tiny.PROMPTS):
        alone = tiny.encode(prompt)
        yield i, prompt, width - alone.layout.length, alone


def graph_alone(edit, encoding):
    """The edit, or None where it refuses a prompt that it could not act on."""
    try:
        edit.check(encoding.layout, generates=True)
    except vi.LayoutError:
        return None
    if edit.hook.startswith("vision") and not encoding.images[0]:
        return None
    return edit


BATCHED = list(EDITS)


@pytest.mark.parametrize("attention", ATTENTIONS)
@every(BATCHED)
def test_a_batch_equals_its_samples_one_by_one(name, attention):
    lmm, edit = tiny.lmm(attention=attention), EDITS[name]
    together = lmm.run(tiny.batch(), graph=edit).logits
    for i, _, pad, alone in alone_and_together():
        want = lmm.run(alone, graph=graph_alone(edit, alone)).logits[0]
        assert apart(together[i, pad:], want) < NEAR


@every(BATCHED)
def test_a_generated_batch_equals_its_samples_one_by_one(name):
    lmm, edit = tiny.lmm(), EDITS[name]
    together = lmm.generate(tiny.batch(), graph=edit, max_new_tokens=5)
    for i, _, _, alone in alone_and_together():
        want = lmm.generate(alone, graph=graph_alone(edit, alone), max_new_tokens=5)
        assert torch.equal(together.generated[i], want.generated[0])
        assert apart(together.logits[i], want.logits[0]) < 2 * NEAR


def of_sample(record, sample, pad, alone):
    """What a batch's record says of one sample, cut to what the record of that sample says."""
    value = record.values.select(record.axes.index("batch"), sample)
    axes = [axis for axis in record.axes if axis != "batch"]
    want = alone.values.squeeze(alone.axes.index("batch"))
    for along in {"query", "token"} & {*axes} & {*alone.coords}:
        rows = [record.coords[along].index(row + pad) for row in alone.coords[along]]
        value = value.index_select(axes.index(along), torch.tensor(rows))
    if "key" in axes:
        value = value.narrow(axes.index("key"), pad, want.shape[axes.index("key")])
    if "patch" in axes:
        value = value.narrow(axes.index("patch"), 0, want.shape[axes.index("patch")])
    return value, want


BY_BATCH = [
    name
    for name, probe in PROBES.items()
    if "batch" in probe.axes and name != "function without rows"  # it sums over padding
]


# A plain forward pass of transformers rotates by the padded position; scores see the difference.
PADDED_POSITIONS = {"activation attn.hook_rot_q", "activation attn.hook_rot_k"}


@pytest.mark.parametrize(
    ("name", "generates"),
    [(name, False) for name in BY_BATCH if name not in PADDED_POSITIONS]
    + [(name, True) for name in BY_BATCH],
)
def test_a_probe_of_a_batch_equals_that_of_each_sample(name, generates):
    lmm, probe = tiny.lmm(), PROBES[name]

    def record(encoding):
        if generates:
            return lmm.generate(encoding, graph=probe, max_new_tokens=4)[probe]
        return lmm.run(encoding, graph=probe)[probe]

    together = record(tiny.batch())
    compared = 0
    for i, _, pad, alone in alone_and_together():
        if graph_alone(probe, alone) is None:
            continue
        got, want = of_sample(together, i, pad, record(alone))
        torch.testing.assert_close(got, want, atol=3e-5, rtol=1e-4, equal_nan=True)
        compared += 1
    assert compared >= 4


@every(EDITS)
def test_prefill_and_decode_equal_one_pass(name):
    """The answer's tokens, read again in one pass with the same edit."""
    lmm, encoding, edit = tiny.lmm(), tiny.batch("two images", "one image", "short"), EDITS[name]
    generated = lmm.generate(encoding, graph=edit, max_new_tokens=6)
    whole = lmm.run(longer(encoding, generated.ids), graph=edit).logits
    rows = list(generated.answer_rows)
    assert apart(whole[:, rows], generated.logits) < 2 * NEAR


def longer(encoding, ids):
    """An encoding of prompt and answer; what was generated is still called generated."""
    new = ids.shape[1] - encoding.layout.length
    ones = encoding.inputs["attention_mask"].new_ones(len(ids), new)
    mask = torch.cat([encoding.inputs["attention_mask"], ones], 1)
    inputs = {**encoding.inputs, "input_ids": ids, "attention_mask": mask}
    return replace(encoding, inputs=inputs, layout=encoding.layout.extend(new))


# 5. Row programs equal eager attention.

EAGER = {
    "image to query": (["image"], ["query"], range(4), False),
    "image to generated": (["image"], ["query", "generated"], range(1, 4), False),
    "query to itself": (["query"], ["query", "generated"], (0, 2), False),
    "first token": (["image"], ["generated"], range(1, 4), True),
}


def by_eager(name, layout):
    """The same edit on the restated eager attention."""
    if name in EAGER:
        source, target, layers, first = EAGER[name]
        return restated.knockout(layout, source, target, layers, first_token=first)
    edit = EDITS[name]
    layers = range(3) if edit.mode == "paper" else range(2, 4)
    layers = [layer for layer in layers if edit.layers == ":" or layer < 2]
    shares = {"p": edit.p, "rho": edit.rho, "least": edit.min_image_mass}
    online = edit.sinks_from != "prefill" if edit.sinks_from else edit.mode == "paper"
    return restated.redistribution(
        layout,
        edit.mode,
        layers,
        tiny.SINKS.dims,
        edit.tau or tiny.SINKS.tau,
        online=online,
        **shares,
    )


COMPARED = [*EAGER, *nodes.VARS]


@cache
def eager_answer(name=None):
    """Of 16 tokens, by the restated eager attention with an edit, or plain."""
    encoding = tiny.batch()
    edits = by_eager(name, encoding.layout) if name else {}
    return restated.answer(tiny.lmm(attention="eager").hf_model, encoding.inputs, 16, **edits)


@pytest.mark.parametrize("attention", ATTENTIONS)
@every(COMPARED)
def test_edits_equal_plain_eager_attention_over_prompt_and_answer(name, attention):
    edit, (ids, logits) = EDITS[name], eager_answer(name)
    run = tiny.lmm(attention=attention).generate(tiny.batch(), graph=edit, max_new_tokens=16)
    assert torch.equal(run.ids, ids)
    assert apart(run.logits, logits) < 1e-5
    assert not torch.equal(eager_answer()[0], ids), "the edit did nothing to the answer"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("attention", ATTENTIONS)
@every(["image to query", "query to itself"])
def test_half_precision_is_no_worse_than_eagers_own(name, attention, dtype):
    encoding, keep = tiny.batch(), real(tiny.batch())
    edits = by_eager(name, encoding.layout)
    exact = restated.forward(tiny.lmm(attention="eager").hf_model, encoding.inputs, **edits)
    own = restated.forward(tiny.lmm(dtype, "eager").hf_model, encoding.inputs, **edits)
    ours = tiny.lmm(dtype, attention).run(encoding, graph=EDITS[name]).logits
    theirs = apart(own[keep], exact[keep])
    assert 0 < apart(ours[keep], exact[keep]) < 2 * theirs


@pytest.mark.parametrize("elements", [1, 300])
@every([*nodes.PORTABLE])
def test_tiles_of_rows_give_the_same_logits(name, elements, monkeypatch):
    lmm, encoding = tiny.lmm(), tiny.batch(prompt_for(name), "text")
    whole = lmm.run(encoding, graph=EDITS[name]).logits
    monkeypatch.setattr(row_program, "TILE_ELEMENTS", elements)
    monkeypatch.setattr(row_program, "LEAST_ROWS", 1)
    assert apart(lmm.run(encoding, graph=EDITS[name]).logits, whole) < NEAR


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("elements", [1, 300])
@every(PROBES)
def test_tiles_of_rows_give_the_same_records(name, elements, padded, monkeypatch):
    lmm, probe = tiny.lmm(), PROBES[name]
    encoding = tiny.batch("one image", "image last") if padded else tiny.encode("one image")
    whole = lmm.run(encoding, graph=probe)[probe]
    monkeypatch.setattr(row_program, "TILE_ELEMENTS", elements)
    monkeypatch.setattr(row_program, "LEAST_ROWS", 1)
    tiled = lmm.run(encoding, graph=probe)[probe]
    assert tiled.axes == whole.axes
    assert tiled.coords == whole.coords
    torch.testing.assert_close(tiled.values, whole.values, atol=1e-6, rtol=1e-5, equal_nan=True)
