"""ACT against numpy, token by token, and against the released program in other words."""

import numpy as np
import pytest
import torch

import vsink_interp as vi
from tests import tiny
from tests.nodes import apart
from vsink_interp import kernels
from vsink_interp.edits import ACT, recipes
from vsink_interp.probes import Activation

AT = 2
PATTERN = Activation("attn.hook_pattern", AT)


def calibrated(pattern, threshold, beta, first=0, n_prompt=None, rows=None):
    """One head, query x key of one sample: means over the prompt rows that see a key."""
    new, length = pattern.copy(), len(pattern)
    n_prompt = length if n_prompt is None else n_prompt
    for i in range(first, length) if rows is None else rows:
        sinks = []
        for j in range(first + 1, i + 1):
            if i < n_prompt:
                mean = sum(pattern[k, j] for k in range(j, n_prompt)) / (n_prompt - j)
            else:
                mean = pattern[i, j]
            if mean > threshold:
                sinks.append(j)
        others = [j for j in range(first, i + 1) if j not in sinks]
        surplus = (1 - beta) * sum(pattern[i, j] for j in sinks)
        held = sum(pattern[i, j] for j in others)
        for j in sinks:
            new[i, j] = beta * pattern[i, j]
        for j in others:
            new[i, j] = pattern[i, j] + surplus * pattern[i, j] / held
    return new


def released(pattern, threshold, beta):
    """Their program for one head: columns by mean, the first one found spared."""
    length = len(pattern)
    means = pattern.sum(0) / np.arange(length, 0, -1)
    sinks = np.flatnonzero(means > threshold)[1:]
    surplus = pattern[:, sinks].sum(1) * (1 - beta)
    weights = pattern.copy()
    weights[1:, sinks] = 0
    new = pattern.copy()
    new[:, sinks] *= beta
    new += surplus[:, None] * weights / weights.sum(1, keepdims=True)
    new[0, 0] = 1
    return new


def kernel(pattern, threshold, beta):
    length = pattern.shape[-1]
    real = torch.ones(1, length, dtype=torch.bool)
    bounds = torch.full((1, len(pattern), length), threshold, dtype=torch.float64)
    bounds[..., 0] = torch.inf
    value = torch.from_numpy(pattern)[None]
    got = kernels.calibrate(value, bounds, beta, None, real, torch.arange(length))
    return got[0].numpy()


@pytest.mark.parametrize("seed", range(40))
def test_the_kernel_equals_the_released_program_and_the_definition(seed):
    source = np.random.default_rng(seed)
    length, threshold, beta = int(source.integers(2, 30)), source.choice([0.05, 0.1, 0.15]), 0.4
    scores = source.normal(size=(3, length, length)) * 1.5
    scores[..., source.integers(0, length, 2)] += 2.5
    scores[..., 0] += 3
    scores[:, np.triu_indices(length, 1)[0], np.triu_indices(length, 1)[1]] = -np.inf
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    pattern = powers / powers.sum(-1, keepdims=True)
    found = kernel(pattern, threshold, beta)
    for head in range(3):
        wanted = calibrated(pattern[head], threshold, beta)
        np.testing.assert_allclose(found[head], wanted, atol=1e-12)
        if pattern[head, :, 0].mean() > threshold:  # else theirs spares a later one
            np.testing.assert_allclose(found[head], released(pattern[head], threshold, beta),
                                       atol=1e-12)  # fmt: skip
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-12)


def test_where_rows_see_what_comes_after_them_means_are_over_rows_from_a_key_on():
    """As in prefix models: what earlier rows give a key does not make it a sink."""
    pattern = np.full((1, 4, 4), 0.1)
    pattern[0, :3, 3] = 0.7  # much from earlier rows, little from its own
    pattern[0, :, 2] = 0.6
    pattern /= pattern.sum(-1, keepdims=True)
    means = [pattern[0, j:, j].mean() for j in range(4)]
    assert means[2] > 0.3 > means[3] and pattern[0, :, 3].sum() > 0.3
    found = kernel(pattern, 0.3, 0.4)
    np.testing.assert_allclose(found[0, :, 2], 0.4 * pattern[0, :, 2])
    assert (found[0, :, 3] > pattern[0, :, 3]).all(), "no sink: it receives"


def test_a_mean_exactly_at_the_threshold_makes_no_sink():
    """Their program asks for more than the threshold."""
    pattern = np.array([[[1.0, 0, 0], [0.5, 0.5, 0], [0.5, 0.25, 0.25]]])
    assert (kernel(pattern, 0.375, 0.4) == pattern).all()
    assert (kernel(pattern, 0.374, 0.4) != pattern).any()


def test_a_row_of_nothing_but_sinks_is_left():
    """Also where the others have so little that dividing by it would leave the range of fp32."""
    bounds = torch.tensor([[[torch.inf, 0.1, 0.1]]])
    row = torch.tensor([[[[0.0, 0.5, 0.5]]]])
    for little, acts in ((0.0, False), (1e-38, False), (1e-36, True)):
        row[..., 0] = little
        got = kernels.calibrate(row, bounds, 0.4)
        assert got.flatten().tolist() == pytest.approx([0.6, 0.2, 0.2] if acts else row.flatten())


def test_random_cases_do_move_mass():
    """The cases above are about something."""
    pattern = np.tril(np.ones((1, 8, 8)))
    pattern[..., 3] *= 4
    pattern /= pattern.sum(-1, keepdims=True)
    found = kernel(pattern, 0.2, 0.4)
    np.testing.assert_allclose(found[0, 3:, 3], 0.4 * pattern[0, 3:, 3])
    assert (found[0, 4:, 0] > pattern[0, 4:, 0]).all(), "the first token receives as well"


def clean(encoding, generates=0):
    if generates:
        run = tiny.lmm().generate(encoding, graph=PATTERN, max_new_tokens=generates)
    else:
        run = tiny.lmm().run(encoding, graph=PATTERN)
    return run[PATTERN].values[0].double().numpy()


@pytest.mark.parametrize("heads", [None, (1, 3)])
def test_it_equals_the_definition_in_a_padded_batch(heads):
    batch = tiny.batch("one image", "short", "text")
    before, edit = clean(batch), ACT(0.06, 0.3, layers=AT, heads=heads)
    after = tiny.lmm().run(batch, graph=edit | PATTERN)[PATTERN].values[0].numpy()
    firsts = batch.inputs["attention_mask"].int().argmax(-1).tolist()
    assert len(set(firsts)) == 3
    for sample, first in enumerate(firsts):
        for head in range(tiny.HEADS):
            wanted = before[sample, head]
            if heads is None or head in heads:
                wanted = calibrated(wanted, 0.06, 0.3, first)
            got = after[sample, head]
            np.testing.assert_allclose(got[first:], wanted[first:], atol=1e-6)
    assert np.abs(after - before)[0].max() > 0.02


def test_generated_rows_are_judged_by_themselves_where_they_are_named():
    encoding, n = tiny.encode(), tiny.encode().layout.length
    edit = ACT(0.06, 0.3, layers=3, rows="generated")
    probe = Activation("attn.hook_pattern", 3)
    plain = tiny.lmm().generate(encoding, graph=probe, max_new_tokens=4)
    run = tiny.lmm().generate(encoding, graph=probe | edit | probe, max_new_tokens=4)
    before, after = (run[f"{probe!r}#{i}"].values[0, 0].double().numpy() for i in (1, 2))
    for head in range(tiny.HEADS):
        rows = range(n, len(before[head]))
        wanted = calibrated(before[head], 0.06, 0.3, 0, n, rows)
        np.testing.assert_allclose(after[head], wanted, atol=1e-6)
    assert np.abs(after - before)[:, n:].max() > 0.02
    assert torch.equal(plain.logits[:, 0], run.logits[:, 0])
    assert apart(plain.logits[:, 1:], run.logits[:, 1:]) > 1e-3


@pytest.mark.parametrize("rows", ["query", "prompt generated"])
def test_means_are_of_all_prompt_rows_whatever_rows_are_named_or_asked_for(rows):
    encoding, n = tiny.encode(), tiny.encode().layout.length
    edit, probe = ACT(0.06, 0.3, layers=3, rows=rows), Activation("attn.hook_pattern", 3)
    run = tiny.lmm().generate(encoding, graph=probe | edit | probe, max_new_tokens=4)
    before, after = (run[f"{probe!r}#{i}"].values[0, 0].double().numpy() for i in (1, 2))
    places = run.layout.mask(rows)[0, : before.shape[1]].nonzero().flatten().tolist()
    for head in range(tiny.HEADS):
        wanted = calibrated(before[head], 0.06, 0.3, 0, n, places)
        np.testing.assert_allclose(after[head], wanted, atol=1e-6)
    alone = tiny.lmm().generate(encoding, graph=edit, max_new_tokens=4)
    assert apart(alone.logits, run.logits) < 2e-5
    assert apart(alone.logits, tiny.lmm().generate(encoding, max_new_tokens=4).logits) > 1e-3
    prompt = ACT(0.06, 0.3, layers=3, rows="prompt")
    steps = tiny.lmm().generate(encoding, graph=prompt, max_new_tokens=4).logits[:, 1:]
    assert (apart(alone.logits[:, 1:], steps) > 1e-3) == ("generated" in rows)


def test_by_default_it_acts_on_prompts_alone():
    probe = Activation("attn.hook_pattern", AT)
    run = tiny.lmm().generate(tiny.encode(), graph=probe | ACT(0.06) | probe, max_new_tokens=4)
    before, after = (run[f"{probe!r}#{i}"].values[0, 0] for i in (1, 2))
    n = tiny.encode().layout.length
    assert torch.equal(before[:, n:], after[:, n:])
    assert apart(before[:, :n], after[:, :n]) > 0.02


def test_it_leaves_the_first_two_blocks_and_the_last():
    assert ACT().resolved_layers(32) == tuple(range(2, 31))
    assert recipes.act(0.3, 0.15, "9:") == ACT(0.15, 0.3, layers="9:")


@pytest.mark.parametrize("options", [{"threshold": 1.2}, {"beta": -0.1}, {"rows": "sink"}])
def test_what_cannot_be_read_is_refused(options):
    with pytest.raises(vi.NotationError):
        ACT(**options)
