"""Heads chosen in every row, patterns that are not made to sum to one, and registers.

Against numpy from the clean values of one layer, and against plain eager attention.
"""

import math

import numpy as np
import pytest
import torch

import vsink_interp as vi
from tests import restated, tiny
from tests.edits.test_scores_and_patterns import (
    AT,
    PATTERN,
    SCORES,
    Z,
    clean,
    edges,
    edited,
    mask,
    softmax,
)
from vsink_interp.edits import recipes

TOP = vi.TopHeads("image", 2)


def chosen(pattern, group="image", k=2, *, others=False):
    """Head x query: the k heads of each row with the most attention to a group."""
    found = np.zeros(pattern.shape[:2], bool)
    columns = mask(group)
    for row in range(pattern.shape[1]):
        mass = [sum(pattern[head, row, columns]) for head in range(len(pattern))]
        best = sorted(range(len(mass)), key=lambda head: -mass[head])[:k]
        for head in range(len(mass)):
            found[head, row] = max(mass) > 0 and (head in best) != others
    return found


def rows(group="query"):
    return mask(group)[None, :, None]


@pytest.mark.parametrize("others", [False, True])
def test_heads_damped_by_row(others):
    pattern, z = clean(PATTERN), clean(Z)
    acts = (chosen(pattern, others=others)[..., None] & rows()).transpose(1, 0, 2)
    heads = ~TOP if others else TOP
    found = edited(vi.ScaleHeads(0.25, heads=heads, layers=AT, rows="query"), Z)
    np.testing.assert_allclose(found, np.where(acts, 0.25 * z, z), atol=1e-6)
    picked = chosen(pattern)[:, mask("query")]
    assert len({tuple(column) for column in picked.T}) > 1, "all rows choose the same heads"


def test_scores_of_heads_chosen_by_row():
    scores, acts = clean(SCORES), chosen(clean(PATTERN))[..., None] & edges()
    added = edited(vi.AddScores("image", 1.0, heads=TOP, layers=AT, rows="query"), PATTERN)
    np.testing.assert_allclose(added, softmax(np.where(acts, scores + 1, scores)), atol=1e-6)
    cut = edited(vi.Knockout("image -> query", AT, heads=TOP), PATTERN)
    np.testing.assert_allclose(cut, softmax(np.where(acts, -np.inf, scores)), atol=1e-6)


def test_patterns_of_heads_chosen_by_row():
    pattern = clean(PATTERN)
    acts = chosen(pattern, "bos", 1)[..., None] & rows()
    top = vi.TopHeads("bos", 1)
    copied = edited(vi.CopyHead(3, heads=top, layers=AT, rows="query"), PATTERN)
    np.testing.assert_allclose(copied, np.where(acts, pattern[3:4], pattern), atol=1e-6)
    every = edited(vi.Redistribute("bos", "image", 0.5, layers=AT, rows="query"), PATTERN)
    some = edited(vi.Redistribute("bos", "image", 0.5, layers=AT, rows="query", heads=top), PATTERN)
    np.testing.assert_allclose(some, np.where(acts, every, pattern), atol=1e-6)
    every = edited(vi.ACT(0.06, 0.1, layers=AT), PATTERN)
    some = edited(vi.ACT(0.06, 0.1, layers=AT, heads=top), PATTERN)
    acts = chosen(pattern, "bos", 1)[..., None]
    np.testing.assert_allclose(some, np.where(acts, every, pattern), atol=1e-6)


def test_heads_may_be_chosen_by_sinks():
    phi = tiny.lmm().run(tiny.encode(), graph=vi.probes.SinkValue(layers=AT))
    sinks = next(iter(phi.records.values())).values[0, 0].numpy() >= tiny.SINKS.tau
    pattern, scores = clean(PATTERN), clean(SCORES)
    mass = (pattern * (sinks & mask("image"))).sum(-1)
    best = mass == mass.max(0)
    edit = vi.AddScores("bos", 2.0, heads=vi.TopHeads("sink & image", 1), layers=AT, rows="query")
    acts = edges(columns="bos") & (best & (mass > 0))[..., None]
    np.testing.assert_allclose(
        edited(edit, PATTERN), softmax(np.where(acts, scores + 2, scores)), atol=1e-6
    )


def test_a_scaled_pattern_gives_nothing_in_return():
    pattern = clean(PATTERN)
    edit = vi.ScalePattern("image", 0.3, heads=(1,), layers=AT, rows="query")
    wanted = np.where(edges(heads=(1,)), 0.3 * pattern, pattern)
    np.testing.assert_allclose(edited(edit, PATTERN), wanted, atol=1e-6)


def with_column(scores, *logits):
    """The softmax of scores with more columns, which are left out again."""
    columns = [np.full((*scores.shape[:2], 1), logit) for logit in logits]
    return softmax(np.concatenate([scores, *columns], -1))[..., : scores.shape[-1]]


def test_a_register_is_a_column_of_the_softmax():
    scores, pattern = clean(SCORES), clean(PATTERN)
    one = vi.SoftmaxRegister(0.7, layers=AT, rows="query", heads=(0, 2))
    acts = edges(columns="all", heads=(0, 2))
    wanted = np.where(acts, with_column(scores, 0.7), pattern)
    np.testing.assert_allclose(edited(one, PATTERN), wanted, atol=1e-6)
    two = one | vi.SoftmaxRegister(1.4, layers=AT, rows="query", heads=(0, 2))
    wanted = np.where(acts, with_column(scores, 0.7, 1.4), pattern)
    np.testing.assert_allclose(edited(two, PATTERN), wanted, atol=1e-6)
    raised = vi.AddScores("image", 2.0, layers=AT, rows="query") | one
    scores = np.where(edges(), scores + 2, scores)
    wanted = np.where(acts, with_column(scores, 0.7), softmax(scores))
    np.testing.assert_allclose(edited(raised, PATTERN), wanted, atol=1e-6)
    damped = one | vi.ScalePattern("all", -0.5, layers=AT, rows="query", heads=(0, 2))
    acts, scores = edges(columns="all", heads=(0, 2)), clean(SCORES)
    wanted = np.where(acts, -0.5 * with_column(scores, 0.7), pattern)
    np.testing.assert_allclose(edited(damped, PATTERN), wanted, atol=1e-6)
    for factor in (-0.5, 2.0):  # a row that lacks nothing of one
        first = vi.ScalePattern("all", factor, layers=AT, rows="query", heads=(0, 2)) | one
        wanted = np.where(acts, factor * with_column(scores, 0.7), pattern)
        np.testing.assert_allclose(edited(first, PATTERN), wanted, atol=1e-6)
    far = edited(recipes.farsight(0.8, layers=AT), PATTERN)
    later = [-0.8 * m for m in range(1, 60)]
    np.testing.assert_allclose(far, with_column(clean(SCORES), *later), atol=1e-6)


def test_a_register_of_heads_chosen_by_row():
    scores, pattern = clean(SCORES), clean(PATTERN)
    acts = chosen(pattern)[..., None] & rows()
    found = edited(vi.SoftmaxRegister(0.7, heads=TOP, layers=AT, rows="query"), PATTERN)
    np.testing.assert_allclose(found, np.where(acts, with_column(scores, 0.7), pattern), atol=1e-6)


def on_text(layout, change):
    """An edit of plain eager attention: rows of query and generated tokens, what `change` makes."""

    def pattern(layer, weights, resid):
        del layer, resid
        length = weights.shape[-1]
        row = restated.is_a(layout, length, "query", "generated")[:, None, :, None]
        image = restated.is_a(layout, length, "image")
        return torch.where(row, change(weights, image), weights)

    return {"pattern": pattern}


def spin(weights, image):
    """Heads below the two that see the image most, times 0.05."""
    mass = (weights * image[:, None, None]).sum(-1)
    least = mass.sort(1, descending=True).values[:, 1:2]
    damped = torch.where(mass < least, 0.05, 1.0)
    return weights * damped[..., None]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_spin_equals_plain_eager_attention_over_prompt_and_answer(attention):
    encoding, edit = tiny.batch(), recipes.spin(2, 0.05)
    reference = tiny.lmm(attention="eager").hf_model
    ids, logits = restated.answer(reference, encoding.inputs, 6, **on_text(encoding.layout, spin))
    run = tiny.lmm(attention=attention).generate(encoding, graph=edit, max_new_tokens=6)
    assert torch.equal(run.ids, ids)
    assert (run.logits - logits).abs().max() < 2e-5


def test_withdrawn_image_tokens_are_gone_from_a_layer_on():
    """VTW against the plain model's layers, run on the text tokens alone from there on."""
    encoding, text_model = tiny.encode(), tiny.lmm().hf_model.model.language_model
    ours = tiny.lmm().run(encoding, graph=recipes.vtw(2)).logits[0]
    keep = ~encoding.layout.mask("image")[0]
    seen = []

    def withdraw(_, args, kwargs):
        short = {
            "attention_mask": None,
            "position_embeddings": tuple(x[:, keep] for x in kwargs["position_embeddings"]),
            "past_key_values": None,
        }
        return (args[0][:, keep] if not seen else args[0], *args[1:]), kwargs | short

    def later(module, args, kwargs):
        found = withdraw(module, args, kwargs)
        seen.append(module)
        return found

    hooks = [
        block.register_forward_pre_hook(later, with_kwargs=True) for block in text_model.layers[2:]
    ]
    with torch.no_grad():
        logits = tiny.lmm().hf_model(**encoding.inputs, use_cache=False).logits[0]
    for hook in hooks:
        hook.remove()
    assert len(seen) == 2
    assert len(logits) == int(keep.sum())
    assert (ours[keep] - logits).abs().max() < 2e-5
    assert (ours[keep] - tiny.plain(tiny.lmm(), encoding)[0, keep]).abs().max() > 0.1


def test_what_cannot_choose_is_refused():
    for make in (
        lambda: vi.TopHeads("imge", 1),
        lambda: vi.TopHeads("image", 0),
        lambda: vi.TopHeads("image", True),
        lambda: vi.Ablate("attn.hook_z", heads=TOP),
        lambda: vi.ScalePattern("image", math.inf),
        lambda: vi.SoftmaxRegister(math.nan),
    ):
        with pytest.raises(vi.NotationError):
            make()
    with pytest.raises(vi.NotationError, match="1 to 3"):
        tiny.lmm().run(tiny.encode(), graph=vi.ScaleHeads(0.5, heads=vi.TopHeads("image", 4)))
    with pytest.raises(vi.LayoutError, match="image"):
        tiny.lmm().run(tiny.encode("text"), graph=vi.ScaleHeads(0.5, heads=TOP))
    inert = vi.Knockout("image -> query") | vi.ScaleHeads(0.5, heads=TOP, rows="query")
    with pytest.raises(vi.LayoutError):
        tiny.lmm().run(tiny.encode(), graph=inert)


def test_they_survive_json():
    graph = vi.EditGraph(
        recipes.spin(2), recipes.farsight(), recipes.vtw(1), vi.ScalePattern("bos", 0.5, heads=TOP)
    )
    assert vi.EditGraph.from_json(graph.to_json()) == graph
    names = {name: getattr(vi, name) for name in vi.__all__}
    assert eval(repr(graph), names) == graph
    for right, wrong in (
        ('"k": 2', '"many": 2'),
        ('"k": 2', '"k": "2"'),
        ('"group": "image"', '"group": 5'),
        ('"others": false', '"others": "no"'),
    ):
        assert right in graph.to_json()
        with pytest.raises(vi.NotationError, match="TopHeads"):
            vi.EditGraph.from_json(graph.to_json().replace(right, wrong))
