"""What only a real NDIF server can show; `run.sh` runs it."""

import shutil

import pytest

import vsink_interp as vi
from tests import tiny
from tests.remote.conftest import Real
from vsink_interp.remote.client import Submitting

pytestmark = pytest.mark.skipif(not Real.host, reason="needs a real NDIF server: make ndif")
ASSET, PROMPT = tiny.PROMPTS["one image"]


@pytest.fixture(scope="module")
def lmm(tiny_dir):
    return vi.LMM.from_pretrained(tiny_dir, remote="http://127.0.0.1:1")


def test_the_mode_is_the_one_that_is_meant(lmm, loopback):
    """In the sandbox, intervention code runs next to a model without weights."""
    hosted, inputs = lmm.backend.hosted, dict(lmm.encode(ASSET, PROMPT).inputs)
    backend = Submitting(hosted.key, host=loopback.host, env={}, blocking=False)
    backend.display.enabled = False
    model = hosted.nnsight
    with model.trace(**inputs, backend=backend):
        found = [{"meta": model.lm_head.weight.is_meta}].save()  # noqa: F841 (read on the server)
        model.lm_head.output  # noqa: B018 (a trace has to read something)
    assert loopback.server().wait(backend.job_id) == [{"meta": not Real.trusted}]


def test_a_model_that_the_server_cannot_find(loopback, tiny_dir, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(tiny_dir, folder)
    other = vi.LMM.from_pretrained(folder, remote=loopback.server())
    encoding = other.encode(ASSET, PROMPT)
    shutil.rmtree(folder)
    with pytest.raises(vi.RemoteError, match=r"the job failed on the server: Could not deploy"):
        other.generate(encoding, max_new_tokens=2)


def test_gradients_are_no_part_of_a_graph(lmm):
    """They need nnsight's own trace, which a model without weights here does not give."""
    with pytest.raises(vi.CapabilityError, match="needs the model here"):
        lmm.trace(ASSET, PROMPT)
