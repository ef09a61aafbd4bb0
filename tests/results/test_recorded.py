"""Reductions of a record of which some entries do not count, against numpy's masked arrays."""

import numpy as np
import pytest
import torch

import vsink_interp as vi
from vsink_interp.results import Recorded

VALUES = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
AXES = ("layer", "batch", "query", "key")
COUNTS = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(1)) > 0.4
COUNTS[:, 2] = False  # a sample of which nothing counts
COUNTS[:, 0, 1] = False
RECORD = Recorded(VALUES, AXES, {"layer": (3, 5)}, COUNTS)
MASKED = np.ma.array(VALUES.numpy(), mask=np.broadcast_to(~COUNTS.numpy(), VALUES.shape))


@pytest.mark.parametrize("how", ["mean", "sum", "max"])
@pytest.mark.parametrize("names", [("key",), ("query", "key"), ("batch",), ("layer", "key"), ()])
def test_reductions_take_what_counts(how, names):
    found = getattr(RECORD, how)(*names)
    dims = tuple(AXES.index(name) for name in names or AXES)
    expected = getattr(MASKED, how)(axis=dims)
    expected = np.ma.filled(np.ma.asarray(expected).astype(float), np.nan)
    np.testing.assert_allclose(found.values.numpy(), expected, rtol=1e-5)
    assert found.axes == tuple(axis for axis in AXES if axis not in (names or AXES))
    again = found.mean()  # a second reduction leaves out what was empty
    assert again.values.isfinite()
    np.testing.assert_allclose(again.values, np.nanmean(expected), rtol=1e-5)


def test_values_that_are_nan_and_what_does_not_count_are_left_out_alike():
    values = torch.tensor([[1.0, torch.nan, 4.0], [9.0, 9.0, 9.0]])
    counts = torch.tensor([[True, True, True], [False, False, True]])
    record = Recorded(values, ("batch", "query"), {}, counts)
    assert record.mean("query").values.tolist() == [2.5, 9.0]
    assert record.sum("query").values.tolist() == [5.0, 9.0]
    assert record.max("query").values.tolist() == [4.0, 9.0]


def test_topk_takes_what_counts_and_says_where():
    largest, where = RECORD.topk(3, "key")
    assert largest.axes == where.axes == ("layer", "batch", "query", "rank")
    for place in np.ndindex(2, 3, 4):
        mask = COUNTS[0][place[1:]]
        keys = mask.nonzero().flatten()
        order = keys[VALUES[place][keys].argsort(descending=True)][:3].tolist()
        assert where.values[place].tolist() == [*order, *[-1] * (3 - len(order))]
        expected = [float(VALUES[place][key]) for key in order]
        assert largest.values[place][: len(order)].tolist() == expected
        assert largest.values[place][len(order) :].isnan().all()
    assert largest.mean().values == pytest.approx(
        float(largest.values[largest.values.isfinite()].mean()), rel=1e-5
    )
    with pytest.raises(vi.ResultError, match="the axis key has 5 entries"):
        RECORD.topk(6, "key")


def test_picking_keeps_what_counts():
    picked = RECORD.at(layer=5, key=2)
    expected = np.ma.filled(MASKED[1, :, :, 2], np.nan)
    np.testing.assert_array_equal(picked.masked, expected)
    some = RECORD.taken("key", (4, 0))
    assert some.labels("key") == (4, 0)
    np.testing.assert_array_equal(some.masked, np.ma.filled(MASKED[..., [4, 0]], np.nan))


def test_entries_are_those_that_count_sample_after_sample():
    record = Recorded(VALUES, AXES, {}, COUNTS[..., :1])
    rows = [(b, q) for b in range(3) for q in range(4) if COUNTS[0, b, q, 0]]
    found = record.entries("batch", "query")
    assert found.shape == (2, 5, len(rows))
    for place, (b, q) in enumerate(rows):
        assert torch.equal(found[..., place], VALUES[:, b, q])


def test_an_entry_that_counts_in_some_places_alone_is_nan_in_the_others():
    found = RECORD.entries("batch", "query")
    rows = [(b, q) for b in range(3) for q in range(4) if COUNTS[0, b, q].any()]
    filled = MASKED.filled(np.nan)
    expected = np.stack([filled[:, b, q] for b, q in rows], -1)
    np.testing.assert_array_equal(found, expected)
    assert found.isnan().any()


def test_each_sample_is_read_at_places_of_its_own():
    places = torch.tensor([[4, 0], [1, -1], [2, 3]])
    found = RECORD.gathered("key", places, "token")
    assert found.axes == ("layer", "batch", "query", "token")
    for b, t in np.ndindex(3, 2):
        if places[b, t] < 0:
            assert found.masked[:, b, :, t].isnan().all()
        else:
            expected = np.ma.filled(MASKED[:, b, :, places[b, t]], np.nan)
            np.testing.assert_array_equal(found.masked[:, b, :, t], expected)


def test_tables_hold_what_counts():
    assert len(RECORD.to_pandas()) == 2 * int(COUNTS.sum())
    assert RECORD.to_pandas().value.mean() == pytest.approx(MASKED.mean(), rel=1e-5)
    assert int(RECORD.to_xarray().isnull().sum()) == 2 * int((~COUNTS).sum())
