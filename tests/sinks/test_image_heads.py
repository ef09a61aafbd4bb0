"""Ranking heads, against loops over the record."""

import numpy as np
import pytest
import torch

import vsink_interp as vi
from tests import tiny
from vsink_interp.sinks.image_heads import HeadRanking, head_probes, image_centric, rank_heads

RATIO, MASS = vi.HEAD_PROBES.nodes


@pytest.fixture(scope="module")
def run():
    return tiny.lmm().generate(tiny.encode(), graph=vi.HEAD_PROBES, max_new_tokens=3)


def test_heads_are_ranked_by_their_mean_ratio(run):
    ranking = rank_heads(run, rho=0.8, min_image_mass=0.45)
    ratio, mass = run[RATIO].values[:, 0].numpy(), run[MASS].values[:, 0, ..., 0].numpy()
    chosen = (ratio >= 0.8) & (mass >= 0.45)
    np.testing.assert_allclose(ranking.ratio, ratio.mean(-1), rtol=1e-5)
    np.testing.assert_allclose(ranking.mass, mass.mean(-1), rtol=1e-5)
    np.testing.assert_allclose(ranking.selected, chosen.mean(-1), rtol=1e-5)
    ever = [
        (layer, head, ratio[layer, head].mean())
        for layer, head in np.ndindex(4, 4)
        if chosen[layer, head].any()
    ]
    ever.sort(key=lambda row: -row[2])
    assert 2 < len(ever) < 16
    top = ranking.top(100)
    assert [row[:2] for row in top] == [row[:2] for row in ever]
    assert ranking.top(2) == top[:2]


def test_rows_of_several_runs_count_together(run):
    """Whatever the order in which they recorded the two probes."""
    other = tiny.lmm().generate(tiny.encode("short"), graph=MASS | RATIO, max_new_tokens=2)
    ranking = rank_heads(run, other, rho=0.8, min_image_mass=0.45)
    ratio = np.concatenate([one[RATIO].values[:, 0] for one in (run, other)], -1)
    mass = np.concatenate([one[MASS].values[:, 0, ..., 0] for one in (run, other)], -1)
    assert ratio.shape[-1] > run[RATIO].values.shape[-1] > 0
    np.testing.assert_allclose(ranking.ratio, ratio.mean(-1), rtol=1e-5)
    np.testing.assert_allclose(ranking.mass, mass.mean(-1), rtol=1e-5)
    chosen = (ratio >= 0.8) & (mass >= 0.45)
    np.testing.assert_allclose(ranking.selected, chosen.mean(-1), rtol=1e-5)


def test_heads_that_are_image_centric_in_no_row_are_not_among_the_highest():
    ratio = torch.tensor([[0.0, 0.5], [0.75, torch.nan]])
    selected = torch.tensor([[0.25, 1.0], [0.0, 0.0]])
    ranking = HeadRanking(ratio, torch.full((2, 2), 0.3), selected, (4, 7), 0.0)
    assert ranking.top(4) == [(4, 1, 0.5), (4, 0, 0.0)]


def test_image_centric_needs_both():
    ratio, mass = torch.tensor([0.9, 0.9, 0.1, torch.nan]), torch.tensor([0.3, 0.1, 0.3, 0.0])
    shape = (1, 1, 4)
    got = image_centric(ratio.view(shape), mass.view(shape), rho=0.5)
    assert got.flatten().tolist() == [True, False, False, False]
    bounds = torch.tensor([0.5, 0.5, 0.49]), torch.tensor([0.25, 0.24, 0.25])
    got = image_centric(*(x.view(1, 1, 3) for x in bounds), rho=0.5, min_image_mass=0.25)
    assert got.flatten().tolist() == [True, False, False], "a share at its bound reaches it"


def test_a_run_without_the_probes_is_refused():
    with pytest.raises(vi.ResultError, match="no record of NonSinkRatio"):
        rank_heads(tiny.lmm().run(tiny.encode()))
    apart = vi.probes.NonSinkRatio() | vi.probes.SegmentMass(groups=("image",), layers=1)
    with pytest.raises(vi.ResultError, match="at the same layers"):
        rank_heads(tiny.lmm().run(tiny.encode(), graph=apart))


def test_no_run_at_all_is_refused():
    with pytest.raises(vi.InputError, match="rank_heads needs a run"):
        rank_heads()


def test_heads_of_some_blocks_are_those_of_all(run):
    some = tiny.lmm().generate(tiny.encode(), graph=head_probes((1, 3)), max_new_tokens=3)
    found, whole = rank_heads(some), rank_heads(run)
    assert found.layers == (1, 3)
    for name in ("ratio", "mass", "selected"):
        torch.testing.assert_close(getattr(found, name), getattr(whole, name)[[1, 3]])
    assert {layer for layer, _, _ in found.top(100)} == {1, 3}
    with pytest.raises(vi.ResultError, match="no record of NonSinkRatio"):
        rank_heads(run, some)
