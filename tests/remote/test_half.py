"""bf16 and fp16 models on a server: as close to float64 as the same model here.

There nodes compute in fp32 and what they return is rounded to the model's precision; here some
compute in the model's own. Neither is exact, and both round the same values in another place: the
root mean square of the error there may be MARGIN times that of the one here, as between ours and
eager attention's in `tests/test_precision.py`, which says why decisions are kept far from turning.
"""

import pytest
import torch

import vsink_interp as vi
from tests import nodes, tiny
from tests.remote.conftest import Real
from tests.test_precision import GAP, HALF, MARGIN, RECORDS, squares, sure

pytestmark = pytest.mark.skipif(bool(Real.host), reason="the real server hosts one precision")
PROBES = vi.EditGraph(*(nodes.PROBES[name] for name in RECORDS))
EDITS = [name for name in nodes.PORTABLE if name not in nodes.NEEDS_TWO_IMAGES]
N_NEW = 4


def encoding():
    return tiny.batch("one image", "image last", "short")


@pytest.fixture(scope="module", params=HALF, ids=str)
def dtype(request):
    return request.param


@pytest.fixture(scope="module")
def folder(dtype, zoo):
    """Where the model lies; its weights are rounded, its rotary frequencies are not."""
    folder = zoo[str(dtype)]
    tiny.hf_model(dtype).save_pretrained(folder)
    tiny.processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def there(folder, loopback):
    """Every edit, all probes at once, and an answer, in one round trip."""
    remote = opened(folder, remote=loopback.server())
    graphs = {name: sure(nodes.EDITS[name]) for name in EDITS}
    with remote.session(loopback.server(), allow_large=True) as session:
        for graph in (*graphs.values(), PROBES):
            session.run(encoding(), graph=graph)
        session.generate(encoding(), graph=graphs["image to query"], max_new_tokens=N_NEW)
    return dict(zip((*graphs, "probes", "answer"), session.runs, strict=True))


@pytest.fixture(scope="module")
def here(folder):
    return opened(folder)


@pytest.fixture(scope="module")
def exact(folder):
    """The same rounded weights, computed with in float64."""
    return opened(folder, dtype=torch.float64)


def opened(folder, **how):
    found = vi.LMM.from_pretrained(folder, **how)
    found.sinks = GAP
    return found


def no_worse(remote, local, exact):
    mine, theirs, size = (squares(x, exact) ** 0.5 for x in (remote, local, exact * 0))
    assert theirs < 0.1 * size, "half precision is not near"
    assert mine <= MARGIN * theirs
    return theirs


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_no_further_from_float64_than_here(name, dtype, there, here, exact):
    edit, keep = sure(nodes.EDITS[name]), nodes.real(encoding())
    assert there[name].logits.dtype == dtype
    logits = [lmm.run(encoding(), graph=edit).logits[keep] for lmm in (here, exact)]
    assert no_worse(there[name].logits[keep], *logits) > 0


def test_probes_are_no_further_from_float64_than_here(there, here, exact):
    runs = [there["probes"], *(lmm.run(encoding(), graph=PROBES) for lmm in (here, exact))]
    assert torch.equal(runs[0].logits, runs[1].logits), "a probe changes no bit"
    errors = {}
    for name in RECORDS:
        values = [run[nodes.PROBES[name]].values.double() for run in runs]
        known = torch.isfinite(values[2])
        errors[name] = no_worse(*(value[known] for value in values))
    assert [name for name, error in errors.items() if not error] == ["activation hook_embed"]


def test_an_answer_is_the_one_here(there, here, exact):
    edit = nodes.EDITS["image to query"]
    runs = [lmm.generate(encoding(), graph=edit, max_new_tokens=N_NEW) for lmm in (here, exact)]
    assert torch.equal(there["answer"].ids, runs[0].ids) and torch.equal(runs[0].ids, runs[1].ids)
    assert no_worse(there["answer"].logits, *(run.logits for run in runs)) > 0


def test_autocast_on_the_server_leaves_what_nodes_compute_in_fp32(folder, loopback):
    """Shares of a row sum to one, as closely as fp32 rounds and not as the model's precision."""
    probe = vi.probes.SegmentMass()
    graph = vi.VAR(rho=0.2) | probe
    remote = opened(folder, remote=loopback.server())
    try:
        loopback.fault("autocast")
        run = remote.run(encoding(), graph=graph)
    finally:
        loopback.fault("")
    sums = run[probe].values.sum(-1)
    assert nodes.apart(sums, torch.ones_like(sums)) < 1e-5
