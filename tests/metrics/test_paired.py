"""Paired differences against formulas and a bootstrap written out."""

from math import comb

import numpy as np
import pytest

from vsink_interp import InputError
from vsink_interp.metrics import paired_difference


def cases(seed=0, n=60):
    rng = np.random.default_rng(seed)
    off = rng.random(n) < 0.6
    return off.astype(float), np.where(rng.random(n) < 0.25, ~off, off).astype(float)


def test_mcnemar_is_the_binomial_tail():
    off, on = cases()
    found = paired_difference(off, on)
    n, k = found.won + found.lost, max(found.won, found.lost)
    tail = sum(comb(n, i) for i in range(k, n + 1)) / 2**n
    assert found.won == int(((on == 1) & (off == 0)).sum()) > 0
    assert found.p == pytest.approx(min(1.0, 2 * tail))


def test_the_interval_is_a_paired_bootstrap():
    off, on = cases(3)
    found = paired_difference(off, on)
    rng = np.random.default_rng(7)
    at = rng.integers(0, len(off), (20_000, len(off)))
    low, high = np.quantile((on[at] - off[at]).mean(1), [0.025, 0.975])
    assert found.difference == pytest.approx(on.mean() - off.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)


def test_arms_that_agree_differ_by_nothing():
    off, _ = cases()
    found = paired_difference(off, off)
    assert (found.difference, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)
    assert paired_difference([0.0], [1.0]).difference == 1.0


def test_another_statistic():
    off, on = np.arange(9.0), np.arange(9.0) ** 1.5
    found = paired_difference(off, on, np.median)
    assert (found.off, found.on) == (4.0, 8.0)


def test_bad_input():
    with pytest.raises(InputError, match="one number a case"):
        paired_difference([1.0], [1.0, 0.0])
