"""Every measured figure, against numpy on the hidden states and patterns of plain transformers."""

import numpy as np
import pytest
import torch

from vsink_interp import experiments as ex
from vsink_interp.probes.mass import THREE_WAY
from vsink_interp.tokens.groups import SEGMENTS

CLOSE = {"rtol": 2e-4, "atol": 2e-5}


def rows_of(run, group):
    """(sample, position) of the tokens of a group, but the last of each answer: it has no row."""
    found = [(int(s), int(p)) for s, p in run.layout.mask(group).nonzero()]
    return [(s, p) for s, p in found if (s, p) != max(pair for pair in found if pair[0] == s)]


def answer_pairs(run):
    """(sample, row) for every generated token that counts: the row before it."""
    return [(int(s), int(p) - 1) for s, p in run.layout.mask("generated").nonzero()]


def test_spectrum(sunk, cases, answered, plain):
    found = ex.spectrum(sunk, cases.images[0], cases.prompts[0], layer=4)
    assert found.positions[0] == 0
    for values, position in zip(found.values, found.positions, strict=True):
        np.testing.assert_allclose(values, plain.unit[4, 0, position], **CLOSE)
    image = answered.layout.mask("image")[0]
    strongest = int(plain.phi[4, 0].masked_fill(~image, -1).argmax())
    is_sink = plain.phi[4, 0, strongest] >= sunk.sinks.tau
    assert ("visual sink" in found.tokens) == bool(is_sink)
    if is_sink:
        assert found.positions[found.tokens.index("visual sink")] == strongest


def test_sink_values(sunk, cases, answered, plain):
    found = ex.sink_values(sunk, cases, layers=(2, 5))
    image = answered.layout.mask("image")
    expected = plain.phi[[2, 5]][:, image]
    np.testing.assert_allclose(found.image_phi, expected, **CLOSE)
    rows = rows_of(answered, "query generated")
    received = []
    for layer in (2, 5):
        for sample in range(3):
            mine = [plain.pattern[layer, s, :, p].mean(0) for s, p in rows if s == sample]
            received.append(torch.stack(mine).mean(0)[image[sample]])
    received = torch.stack(received).reshape(2, -1)
    np.testing.assert_allclose(found.attention, received, **CLOSE)
    assert found.of("bos").shape == (2, 3)
    assert found.of("image").shape == (2, 3 * 64)
    assert 0 < found.sinks_per_case == float((expected >= sunk.sinks.tau).sum()) / 6


def test_batches_change_nothing(sunk, cases):
    from dataclasses import replace

    one, all_at_once = (
        ex.sink_values(sunk, replace(cases, batch_size=size), layers=(3,)) for size in (1, 3)
    )
    np.testing.assert_allclose(one.attention, all_at_once.attention, **CLOSE)
    np.testing.assert_allclose(one.phi.sum(), all_at_once.phi.sum(), rtol=1e-4)


@pytest.mark.parametrize("groups", [SEGMENTS, THREE_WAY])
def test_segment_mass(sunk, cases, answered, plain, groups):
    found = ex.segment_mass(sunk, cases, groups=groups)
    pairs = answer_pairs(answered)
    masks = [answered.layout.mask(group) for group in groups]
    shares = np.array([
        [[float(plain.pattern[layer, s, :, row].mean(0)[mask[s]].sum()) for mask in masks]
         for s, row in pairs]
        for layer in range(sunk.n_layers)
    ])  # fmt: skip
    assert found.pairs == len(pairs)
    np.testing.assert_allclose(found.mean, shares.mean(1), **CLOSE)
    np.testing.assert_allclose(found.std, shares.std(1), rtol=1e-3, atol=1e-4)
    of_case = np.array([s for s, _ in pairs])
    assert len({int(n) for n in np.bincount(of_case)}) > 1, "answers of unequal length"
    drawn = [
        np.concatenate([shares[:, of_case == s] for s in some], 1).mean(1)
        for some in np.random.default_rng(1).integers(len(cases), size=(2000, len(cases)))
    ]
    ends = np.moveaxis(np.quantile(drawn, [0.025, 0.975], axis=0), 0, -1)
    assert found.cases == len(cases)
    np.testing.assert_allclose(found.interval, ends, atol=0.01)
    assert np.ptp(found.interval, -1).max() > 0.01
    np.testing.assert_allclose(found.mean.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(found.count.sum(), 1, rtol=1e-5)


def test_image_heads(sunk, cases, answered, plain):
    found = ex.image_heads(sunk, cases, rho=0.6, min_image_mass=0.1)
    image = answered.layout.mask("image")
    ratio, mass = [], []
    for s, p in rows_of(answered, "query generated"):
        weights = plain.pattern[:, s, :, p]
        sink = (plain.phi[:, s] >= sunk.sinks.tau) & image[s]
        mass.append(weights[..., image[s]].sum(-1))
        ratio.append(1 - (weights * sink[:, None]).sum(-1) / mass[-1])
    ratio, mass = torch.stack(ratio), torch.stack(mass)
    chosen = (mass >= 0.1) & (ratio >= 0.6)
    np.testing.assert_allclose(found.ratio, ratio.mean(0), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.mass, mass.mean(0), **CLOSE)
    # A row at the threshold may fall on either side of it.
    np.testing.assert_allclose(found.selected, chosen.float().mean(0), atol=0.05)
    assert 0 < found.selected.mean() < 1


def test_contributions(sunk, cases, answered, plain):
    layer = 3
    found = ex.contributions(sunk, cases, layers=(layer,))
    block = plain.model.model.language_model.layers[layer]
    with torch.no_grad():
        value = block.self_attn.v_proj(block.input_layernorm(plain.resid[layer]))
    heads = sunk.n_heads
    weight = block.self_attn.o_proj.weight.T.reshape(heads, -1, sunk.d_model)
    value = value.unflatten(-1, (-1, weight.shape[1]))
    value = value.repeat_interleave(heads // value.shape[2], 2)
    norm = torch.einsum("bkhd,hdm->bhkm", value, weight.detach()).norm(dim=-1)
    added = (plain.pattern[layer] * norm[:, :, None]).mean(1)
    image, rows = answered.layout.mask("image"), rows_of(answered, "query generated")
    per_token = torch.stack([
        torch.stack([added[s, p] for s, p in rows if s == sample]).mean(0)[image[sample]]
        for sample in range(3)
    ])  # fmt: skip
    sink = (plain.phi[layer] >= sunk.sinks.tau)[image].view(3, -1)
    assert 0 < found.sinks == int(sink.sum())
    expected = [float(per_token[sink].mean()), float(per_token[~sink].mean())]
    np.testing.assert_allclose(found.norm, expected, rtol=1e-3)


def test_token_strengths(sunk, cases, plain):
    found = ex.token_strengths(sunk, cases.images[0], cases.prompts[0], layers=(1, 2))
    run = sunk.generate(cases.images[0], cases.prompts[0], max_new_tokens=40)
    rows = [row for _, row in answer_pairs(run)]
    received = plain.pattern[[1, 2], 0][:, :, rows].mean((0, 1, 2))
    text = run.layout.mask("prompt & ~image")[0].nonzero().flatten()
    np.testing.assert_allclose(found.attention, received[text], **CLOSE)
    assert [word.strip() for word in found.words] == [run.words[0][i].strip() for i in text]
    later = received[run.layout.prompt_length :].sum()
    assert found.attention.sum() + found.image + later == pytest.approx(1, abs=1e-3)
