"""What only a real NDIF server can show; `run.sh` runs it."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import vsink_interp as vi
from tests import tiny
from tests.families.test_families import PROMPTS, SINKS, TINY, attending, batch, lmm as family
from tests.nodes import apart
from tests.remote.conftest import SAME, Real, same_records
from vsink_interp.cli.main import app
from vsink_interp.edits import recipes
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


REGISTERS = {"Gemma 3": None, "InternVL": 0}
"""A token of its own beside the patches, and one that the tower has."""


def zoo_graphs(name):
    """Edits and probes; inside attention with image blocks, versions of transformers must agree."""
    found = {
        "Steer": vi.edits.Steer((1.0, -1.0) * (family(name).d_model // 2), "1:3")
        | vi.probes.Resid(at="post"),
        "VCD": vi.Contrast("noise", beta=0.0),
        "ICD": vi.Contrast(prefix="you are a big blue friend", beta=0.0),
    }
    if name in REGISTERS:
        found["registers"] = recipes.registers({1: (1, 2, 3)}, REGISTERS[name])
    if name != "Gemma 3":
        layers, mass = attending(family(name)), vi.probes.SegmentMass()
        found["Knockout"] = vi.Knockout("image -> query generated", layers) | mass
        found["DropKeys"] = vi.DropKeys("image", "1:3") | mass
        found["VAR"] = vi.VAR(p=0.6, rho=0.1, min_image_mass=0.05, layers="1:") | mass
    return found


def hosted(name, loopback):
    """A tiny model of another family without weights, and a batch of prompts."""
    _, processor = TINY[name].tiny()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vsink_interp.model.lmm_base.load_processor", lambda *_, **__: processor)
        folder = Path(os.environ["VSINK_NDIF_ZOO"], name)
        there = vi.LMM.from_pretrained(folder, remote=loopback.server(), check=False)
    there.sinks = SINKS
    return there, batch(name)[1]


@pytest.mark.parametrize("name", ["Gemma 3", "InternVL", "Qwen2.5-VL"])
def test_other_families(name, loopback):
    there, encoding = hosted(name, loopback)
    how = {"max_new_tokens": 3, "repetition_penalty": 1.0}
    with there.session(allow_large=True) as session:
        for graph in zoo_graphs(name).values():
            session.generate(encoding, graph=graph, **how)
    plain = family(name).generate(encoding, **how)
    for graph, found in zip(zoo_graphs(name).values(), session.runs, strict=True):
        here = family(name).generate(encoding, graph=graph, **how)
        assert torch.equal(here.ids, found.ids)
        assert apart(here.logits, found.logits) < 10 * SAME
        assert apart(plain.logits, found.logits) > 0.01
        same_records(here, found)


def test_compressed_contexts_of_another_family(loopback):
    spec, (image, prompt), how = vi.CompressedContext(0.3), PROMPTS["one"], {"max_new_tokens": 3}
    there = hosted("InternVL", loopback)[0].compress(image, prompt, spec, **how)
    here = family("InternVL").compress(image, prompt, spec, **how)
    assert torch.equal(here.kept, there.kept)
    answers = [each.ask("count", **how) for each in (here, there)]
    assert torch.equal(answers[0].ids, answers[1].ids)
    assert apart(answers[0].logits, answers[1].logits) < SAME


def test_masks_made_here_are_refused_for_another_transformers(loopback):
    """The server has 5.17, and here is a later one."""
    there, encoding = hosted("Gemma 3", loopback)
    before = loopback.jobs
    with pytest.raises(vi.CapabilityError, match=r"runs transformers 5\.17.* image blocks"):
        there.run(encoding, graph=vi.Knockout("image -> query"))
    assert loopback.jobs == before


def test_the_command_lists_what_is_up(lmm, loopback):
    lmm.generate(ASSET, PROMPT, max_new_tokens=1, remote=loopback.server())
    told = [
        CliRunner().invoke(app, ["remote", word, "--host", loopback.host])
        for word in ("models", "status")
    ]
    assert f"{os.environ['VSINK_NDIF_MODEL']}  HOT  RUNNING" in told[0].stdout
    assert "not known here, or none is asked for" in told[1].stdout
    assert "5.17.0, here " in told[1].stdout


def test_a_trace_of_your_own_is_opened_on_nnsights_model(lmm):
    with pytest.raises(vi.CapabilityError, match="needs the model here"):
        lmm.trace(ASSET, PROMPT)
