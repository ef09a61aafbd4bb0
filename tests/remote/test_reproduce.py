"""`vi.reproduce` of a model on a server: an entry of each kind, and what cannot run there."""

import pytest

import vsink_interp as vi
from vsink_interp.model.progress import silent
from vsink_interp.reproduction import ENTRIES
from vsink_interp.toy import weights_dir

from .conftest import SAME

KINDS = {"A.fig8b": 1, "B.fig3": 1, "B.fig7": 1, "A.fig3b-pope": 2}
"""Of captions with probes and with edits, of objects with masks, of a benchmark; how many cases."""
HERE = [entry.name for entry in ENTRIES if entry.here]


@pytest.fixture(scope="module")
def there(loopback):
    return vi.LMM.from_pretrained(str(weights_dir), remote=loopback.host)


@pytest.fixture(scope="module")
def here():
    return vi.LMM.from_pretrained(str(weights_dir))


def measured(name, lmm, limit=1):
    return vi.reproduce(name, lmm, limit=limit, quick=True, tick=silent)


@pytest.mark.parametrize("name", KINDS)
def test_rows_are_those_of_the_model_here(name, loopback, there, here):
    before = loopback.jobs
    found = measured(name, there, KINDS[name])
    assert loopback.jobs > before
    whole = measured(name, here, KINDS[name])
    assert len(found.rows) == len(whole.rows)
    for one, other in zip(found.rows, whole.rows, strict=True):
        assert repr({**one, "value": 0}) == repr({**other, "value": 0}), "intervals may be NaN"
        assert one["value"] == pytest.approx(other["value"], abs=10 * SAME)


@pytest.mark.parametrize("name", HERE)
def test_what_needs_the_model_here_is_refused_before_anything_is_sent(name, loopback, there):
    before = loopback.jobs
    with pytest.raises(vi.CapabilityError, match=f"{name}, which measures .* without remote="):
        measured(name, there)
    assert loopback.jobs == before
