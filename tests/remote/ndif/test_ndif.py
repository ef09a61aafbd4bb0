"""What only a real NDIF server can show; `run.sh` runs it."""

import os
import shutil
from pathlib import Path

import pytest
import torch

import vsink_interp as vi
from tests import tiny
from tests.families.test_families import SINKS, TINY, attending, batch, lmm as family
from tests.nodes import apart
from tests.remote.conftest import SAME, Real, same_records
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


def zoo_graphs(name):
    """Edits and probes; inside attention with image blocks, versions of transformers must agree."""
    found = {
        "Steer": vi.edits.Steer((1.0, -1.0) * (family(name).d_model // 2), "1:3")
        | vi.probes.Resid(at="post"),
        "VCD": vi.Contrast("noise", beta=0.0),
        "ICD": vi.Contrast(prefix="you are a big blue friend", beta=0.0),
    }
    if name != "Gemma 3":
        layers, mass = attending(family(name)), vi.probes.SegmentMass()
        found["Knockout"] = vi.Knockout("image -> query generated", layers) | mass
        found["DropKeys"] = vi.DropKeys("image", "1:3") | mass
        found["VAR"] = vi.VAR(p=0.6, rho=0.1, min_image_mass=0.05, layers="1:") | mass
    return found


@pytest.mark.parametrize("name", ["Gemma 3", "InternVL", "Qwen2.5-VL"])
def test_other_families(name, loopback):
    _, processor = TINY[name].tiny()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vsink_interp.model.lmm_base.load_processor", lambda *_, **__: processor)
        folder = Path(os.environ["VSINK_NDIF_ZOO"], name)
        there = vi.LMM.from_pretrained(folder, remote=loopback.server(), check=False)
    there.sinks, encoding = SINKS, batch(name)[1]
    how = {"max_new_tokens": 3, "repetition_penalty": 1.0}
    with there.session(allow_large=True) as session:
        for graph in zoo_graphs(name).values():
            session.generate(encoding, graph=graph, **how)
    for graph, found in zip(zoo_graphs(name).values(), session.runs, strict=True):
        here = family(name).generate(encoding, graph=graph, **how)
        assert torch.equal(here.ids, found.ids)
        assert apart(here.logits, found.logits) < 10 * SAME
        same_records(here, found)


def test_a_trace_of_your_own_is_opened_on_nnsights_model(lmm):
    with pytest.raises(vi.CapabilityError, match="needs the model here"):
        lmm.trace(ASSET, PROMPT)
