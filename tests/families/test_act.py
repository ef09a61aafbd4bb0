"""ACT in every family, against numpy: also where rows see what comes after them."""

import numpy as np
import pytest

import vsink_interp as vi
from tests.families.test_families import TINY, attending, encoded, lmm

SHARE, BETA = 0.05, 0.3


def calibrated(pattern, first):
    """One head of one sample: a key's mean is over the prompt rows from it on, so at most 1."""
    new, length = pattern.copy(), len(pattern)
    means = np.array([pattern[max(j, first) :, j].mean() for j in range(length)])
    assert means.max() <= 1 + 1e-6
    sinks = [j for j in range(first + 1, length) if means[j] > SHARE]
    others = [j for j in range(length) if j not in sinks]
    for i in range(first, length):
        held = pattern[i, others].sum()
        if held > 1e-6:
            surplus = (1 - BETA) * pattern[i, sinks].sum()
            new[i, others] = pattern[i, others] * (1 + surplus / held)
            new[i, sinks] = BETA * pattern[i, sinks]
    return new, len(sinks)


@pytest.mark.parametrize("name", TINY)
def test_sinks_are_judged_by_the_rows_from_them_on(name):
    model, encoding = lmm(name), encoded(name, "one")
    layer = attending(model)[-1]
    probe = vi.probes.Pattern("all", layer)
    edit = vi.ACT(SHARE, BETA, layers=layer)
    run = model.run(encoding, graph=probe | edit | probe)
    before, after = (run[f"{probe!r}#{i}"].values[0, 0].double().numpy() for i in (1, 2))
    n_sinks = 0
    for head in range(model.n_heads):
        want, count = calibrated(before[head], 0)
        np.testing.assert_allclose(after[head], want, atol=2e-6)
        n_sinks += count
    assert n_sinks > 0
    np.testing.assert_allclose(after.sum(-1), before.sum(-1), atol=1e-5)
