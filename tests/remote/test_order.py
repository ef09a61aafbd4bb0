"""Places of one layer in one run: nnsight must have the source of attention before it begins."""

import pytest

import vsink_interp as vi
from tests import tiny
from tests.nodes import apart
from tests.remote.conftest import Real

pytestmark = pytest.mark.skipif(bool(Real.host), reason="the real server hosts one tiny LLaVA")


def test_queries_and_values_can_be_asked_for_beside_the_pattern(unseen_dir, loopback):
    """The first run of all: once it has been there, nnsight keeps the source."""
    lmm = vi.LMM.from_pretrained(unseen_dir, remote="http://127.0.0.1:1")
    hooks = ("attn.hook_q", "attn.hook_v", "attn.hook_rot_q", "attn.hook_pattern", "hook_attn_out")
    graph = vi.EditGraph(*map(vi.probes.Activation, hooks))
    run = lmm.run(tiny.encode(), graph=graph, remote=loopback.server(), allow_large=True)
    want = tiny.lmm().run(tiny.encode(), graph=graph)
    for name, record in want.records.items():
        assert apart(run.records[name].values, record.values) < 1e-5, name
