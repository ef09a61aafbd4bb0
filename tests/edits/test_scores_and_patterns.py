"""Edits of scores, patterns, keys and heads against numpy, from the clean values of one layer.

An edit of layer 2 alone leaves everything before it as it was, so what it should make follows from
the clean scores, pattern, keys and values of that layer.
"""

import numpy as np
import pytest
import torch

import vsink_interp as vi
from tests import tiny
from vsink_interp import probes
from vsink_interp.edits import (
    AddScores,
    CopyHead,
    Redistribute,
    ScaleHeads,
    ScaleKeys,
    ScaleScores,
    SetDims,
    Steer,
    recipes,
)
from vsink_interp.kernels import raise_scores, scale_scores

AT = 2
SCORES = probes.Activation("attn.hook_attn_scores", AT)
PATTERN = probes.Activation("attn.hook_pattern", AT)
Z = probes.Activation("attn.hook_z", AT)


def clean(probe):
    """A value of the layer without edits; what the mask forbids is very small, not infinite."""
    values = tiny.lmm().run(tiny.encode(), graph=probe)[probe].values[0, 0]
    return values.double().clamp_min(-1e30).numpy()


def edited(edit, probe):
    """What the edit makes of a value of the layer, and of the logits."""
    run = tiny.lmm().run(tiny.encode(), graph=edit | probe)
    effect = (run.logits - tiny.plain(tiny.lmm(), tiny.encode())).abs().max()
    assert effect > 1e-4, "the edit does not act"
    return run[probe].values[0, 0].double().numpy()


def softmax(scores):
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def mask(group):
    return tiny.encode().layout.mask(group)[0].numpy()


def edges(rows="query", columns="image", heads=None):
    """Head x query x key, true where the edit acts."""
    chosen = np.isin(np.arange(tiny.HEADS), range(tiny.HEADS) if heads is None else heads)
    return chosen[:, None, None] & mask(rows)[:, None] & mask(columns)


@pytest.mark.parametrize("heads", [None, (1,), (0, 3)])
@pytest.mark.parametrize("factor", [1.5, 0.0])
def test_scaled_scores(factor, heads):
    scores = clean(SCORES)
    wanted = softmax(np.where(edges(heads=heads), scores * factor, scores))
    found = edited(ScaleScores("image", factor, layers=AT, rows="query", heads=heads), PATTERN)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_scores_raised_by_their_size():
    scores = clean(SCORES)
    wanted = softmax(np.where(edges(), scores + 0.3 * np.abs(scores), scores))
    found = edited(recipes.pai(0.3, layers=AT), PATTERN)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert (wanted * edges()).sum() > (clean(PATTERN) * edges()).sum()


def test_negative_factors_reveal_nothing_that_the_mask_hides():
    found = edited(ScaleScores("all", -2.0, layers=AT, rows="all"), PATTERN)
    assert np.triu(found, 1).max() == 0
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)


def test_added_scores_multiply_the_odds():
    before, after = clean(PATTERN), edited(AddScores("image", 0.7, layers=AT), PATTERN)
    row, image = mask("query"), mask("image")
    odds = [p[:, row][..., image].sum(-1) / p[:, row][..., ~image].sum(-1) for p in (before, after)]
    np.testing.assert_allclose(odds[1] / odds[0], np.exp(0.7), rtol=1e-5)


LARGE = {
    "added, fp16": (torch.float16, AddScores("image", 1e5, layers=AT)),
    "taken, fp16": (torch.float16, AddScores("all", -1e5, layers=AT, rows="all")),
    "scaled, fp16": (torch.float16, ScaleScores("image", 1e5, layers=AT)),
    "turned, fp16": (torch.float16, ScaleScores("all", -1e5, layers=AT, rows="all")),
    "raised, fp16": (torch.float16, ScaleScores("image", 1e5, layers=AT, by="size")),
    "added, fp32": (torch.float32, AddScores("all", 1e39, layers=AT, rows="all")),
    "taken, fp32": (torch.float32, AddScores("all", -1e39, layers=AT, rows="all")),
    "scaled, fp32": (torch.float32, ScaleScores("all", 1e39, layers=AT, rows="all")),
}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", LARGE)
def test_scores_that_overflow_stay_finite(name, attention):
    dtype, edit = LARGE[name]
    run = tiny.lmm(dtype, attention).run(tiny.encode(), graph=edit | PATTERN)
    found = run[PATTERN].values[0, 0].double().numpy()
    assert torch.isfinite(run.logits).all()
    np.testing.assert_allclose(found.sum(-1), 1, atol=2e-3)
    assert np.triu(found, 1).max() == 0, "a key that the mask hides is seen"
    if edit == LARGE["added, fp16"][1]:
        assert found[:, mask("query")][..., mask("image")].sum(-1).min() > 0.999


def test_scores_of_zero_stay_zero_under_factors_out_of_range():
    scores = torch.tensor([0.0, 2.0, -2.0, -torch.inf])
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        edges = torch.tensor([True, True, True, False])
        for kernel in (scale_scores, raise_scores):
            found = kernel(scores.to(dtype), edges, 1e39)
            assert found[0] == 0
            assert found[1] == torch.finfo(dtype).max
            assert torch.isfinite(found[:3]).all()
            assert found[3] == -torch.inf


def test_clearsight_is_two_scalings():
    scores = clean(SCORES)
    wanted = np.where(edges(), scores * 1.15, scores)
    wanted = softmax(np.where(edges(columns="system"), scores * 0.95, wanted))
    np.testing.assert_allclose(edited(recipes.clearsight(layers=AT), PATTERN), wanted, atol=1e-6)


@pytest.mark.parametrize("heads", [None, (2,)])
def test_redistributed_mass(heads):
    pattern, source, target = clean(PATTERN), mask("bos system"), mask("image")
    given = pattern[..., source].sum(-1, keepdims=True)
    held = pattern[..., target].sum(-1, keepdims=True)
    moved = pattern + 0.4 * given * pattern * target / np.maximum(held, 1e-30)
    moved = np.where(source, 0.6 * pattern, moved)
    acts = edges(columns="all", heads=heads) & (held > 0)
    found = edited(
        Redistribute("bos system", "image", 0.4, layers=AT, rows="query", heads=heads), PATTERN
    )
    np.testing.assert_allclose(found, np.where(acts, moved, pattern), atol=1e-6)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)


def test_a_target_that_is_all_source_is_refused():
    edit = Redistribute("image bos", "image", 0.5)
    with pytest.raises(vi.LayoutError, match="'image' has no token beside those of 'image bos'"):
        tiny.lmm().run(tiny.encode(), graph=edit)


def test_a_row_that_gives_the_target_nothing_keeps_its_pattern():
    edit = Redistribute("bos", "image", 1.0, layers=AT, rows="system query")
    found, pattern = edited(edit, PATTERN), clean(PATTERN)
    system, query = mask("system"), mask("query")
    np.testing.assert_allclose(found[:, system], pattern[:, system], atol=1e-6)
    assert np.abs(found[:, query] - pattern[:, query]).max() > 0.01


def test_copied_heads():
    pattern = clean(PATTERN)
    wanted = np.where(edges(columns="all", heads=(0, 2)), pattern[1:2], pattern)
    found = edited(CopyHead(1, heads=(0, 2), layers=AT, rows="query"), PATTERN)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_a_head_copied_to_all():
    pattern = clean(PATTERN)
    wanted = np.where(edges(columns="all"), pattern[1:2], pattern)
    for heads in (None, ":", (0, 1, 2, 3)):
        found = edited(CopyHead(1, heads=heads, layers=AT, rows="query"), PATTERN)
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_scaled_heads():
    z = clean(Z)
    acts = mask("query")[:, None] & np.isin(np.arange(tiny.HEADS), (1, 3))
    wanted = np.where(acts[..., None], 0.25 * z, z)
    found = edited(ScaleHeads(0.25, heads=(1, 3), layers=AT, rows="query"), Z)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_scaled_keys_scale_scores_of_every_row():
    scores, seen = clean(SCORES), np.tril(np.ones((len(mask("all")),) * 2, bool))
    wanted = softmax(np.where(mask("image") & seen, scores * 0.5, scores))
    np.testing.assert_allclose(
        edited(ScaleKeys("image", 0.5, layers=AT), PATTERN), wanted, atol=1e-6
    )


def test_steering_adds_the_direction_at_its_rows_alone():
    resid = probes.Resid(layers=AT)
    direction = torch.linspace(-1, 1, tiny.WIDTH)
    found = edited(Steer.along(direction, AT, scale=2.0, rows="query"), resid)
    wanted = clean(resid) + 2.0 * mask("query")[:, None] * direction.double().numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_steering_may_keep_the_norm_that_a_vector_had():
    resid = probes.Resid(layers=AT)
    direction = np.linspace(-1, 1, tiny.WIDTH)
    before = clean(resid)
    summed = before + 2.0 * direction
    scaled = summed * np.linalg.norm(before, axis=1, keepdims=True)
    scaled /= np.linalg.norm(summed, axis=1, keepdims=True)
    found = edited(Steer(direction, AT, scale=2.0, rows="query", norm="keep"), resid)
    np.testing.assert_allclose(found, np.where(mask("query")[:, None], scaled, before), atol=1e-5)


def test_set_coordinates():
    resid = probes.Resid(layers=AT, at="pre")
    wanted = clean(resid)
    wanted[np.ix_(mask("image"), [0, 17])] = 0.5
    found = edited(SetDims((0, 17), 0.5, layers=AT, rows="image") | resid, resid)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_sinks_may_be_named_as_keys():
    sinks = tiny.lmm().run(tiny.encode(), graph=probes.SinkValue(layers=AT))
    sinks = sinks.records["SinkValue(rows='all', layers=2, dims=None)"].values[0, 0].numpy()
    chosen = mask("image") & (sinks >= tiny.SINKS.tau)
    assert chosen.any()
    scores = clean(SCORES)
    acts = np.broadcast_to(mask("query")[:, None] & chosen, scores.shape)
    found = edited(AddScores("sink & image", 1.0, layers=AT, rows="query"), PATTERN)
    np.testing.assert_allclose(found, softmax(np.where(acts, scores + 1, scores)), atol=1e-6)


def test_edits_of_generated_rows_change_no_bit_of_the_prompt():
    lmm, encoding = tiny.lmm(), tiny.encode()
    plain = lmm.generate(encoding, max_new_tokens=2).logits[0]
    for edit in (AddScores("image", 1.0, rows="generated"), CopyHead(1, rows="generated")):
        first, second = lmm.generate(encoding, graph=edit, max_new_tokens=2).logits[0]
        assert torch.equal(first, plain[0])
        assert (second - plain[1]).abs().max() > 1e-3


def test_an_edit_of_what_was_cut_before_another_edit_of_scores_is_refused():
    """Scores stay finite in it, so that what was cut before it is cut behind it."""
    cut, between = vi.Knockout("image -> query"), AddScores("bos", 1.0)
    inert = Redistribute("bos", "image", 0.5, rows="query")
    with pytest.raises(vi.LayoutError, match="changes nothing together with Knockout"):
        tiny.lmm().run(tiny.encode(), graph=cut | between | inert)


@pytest.mark.parametrize(
    "edit",
    [
        ScaleScores("image", 2.0, heads=(1, 9)),
        CopyHead(4),
        Steer((1.0,) * 3),
        SetDims((3, tiny.WIDTH)),
    ],
)
def test_what_the_model_does_not_have_is_refused(edit):
    with pytest.raises(vi.NotationError, match=r"0 to 3|coordinates|beyond"):
        tiny.lmm().run(tiny.encode(), graph=edit)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ScaleScores("imge", 1.0),
        lambda: ScaleScores("image", 1.0, by="much"),
        lambda: ScaleScores("image", 1.0, heads=()),
        lambda: ScaleScores("image", 1.0, heads=(-1, 1)),
        lambda: ScaleScores("image", 1.0, heads="1:").acts_on,
        lambda: Redistribute("bos", "image", 1.5),
        lambda: AddScores("image", 1.0, rows="sink"),
        lambda: CopyHead(1, heads=(1,)),
        lambda: CopyHead(1, heads=1),
        lambda: SetDims(()),
        lambda: SetDims((-1, 3)),
        lambda: Steer((0.0, 1.0), norm="half"),
    ],
)
def test_what_cannot_be_read_is_refused_where_it_is_written(make):
    with pytest.raises(vi.NotationError):
        make()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "make",
    [
        lambda x: AddScores("all", x),
        lambda x: ScaleScores("image", x),
        lambda x: ScaleHeads(x, heads=(0,)),
        lambda x: ScaleKeys("image", x),
        lambda x: SetDims((1,), x),
        lambda x: Steer((0.0, x)),
        lambda x: Steer((0.0, 1.0), scale=x),
    ],
)
def test_numbers_that_would_make_rows_nan_are_refused(make, number):
    with pytest.raises(vi.NotationError, match="finite"):
        make(number)


def test_they_act_in_generation_and_survive_json():
    graph = vi.EditGraph(
        recipes.clearsight(layers="1:"),
        recipes.act(0.3),
        CopyHead(0, heads=(1,)),
        ScaleHeads(0.5, heads=(2,)),
        ScaleKeys("bos", 0.7),
        SetDims((5,), layers=1),
        Steer.along(torch.ones(tiny.WIDTH), 1),
    )
    assert vi.EditGraph.from_json(graph.to_json()) == graph
    assert eval(repr(graph), vars(vi.edits) | {"EditGraph": vi.EditGraph}) == graph
    plain = tiny.lmm().generate(tiny.encode(), max_new_tokens=8)
    changed = tiny.lmm().generate(tiny.encode(), graph=graph, max_new_tokens=8)
    assert (plain.logits - changed.logits).abs().amax((0, 2)).min() > 1e-3
