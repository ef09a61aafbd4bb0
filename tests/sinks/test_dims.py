"""`SinkDims`: what no model's sink dimensions can be is refused."""

from math import inf, nan

import pytest

import vsink_interp as vi

NONE = ((), (True,), (3, False), (-1,), (5, -1))


@pytest.mark.parametrize("dims", NONE)
def test_dimensions_that_are_none_are_refused(dims):
    with pytest.raises(vi.NotationError, match="at least one index, a whole number from 0 on"):
        vi.SinkDims(dims, 20.0)


@pytest.mark.parametrize("tau", [0.0, -1.0, inf, nan])
def test_a_threshold_that_no_token_or_every_token_reaches_is_refused(tau):
    with pytest.raises(vi.NotationError, match="a finite tau above 0"):
        vi.SinkDims((3,), tau)


def test_the_first_dimension_and_any_threshold_above_zero_will_do():
    sinks = vi.SinkDims((0, 5), 1e-3)
    assert (sinks.dims, sinks.tau, sinks.source) == ((0, 5), 1e-3, "given")
