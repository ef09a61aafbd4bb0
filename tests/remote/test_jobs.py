"""Sessions, and jobs that another process collects."""

import pytest
import torch

import vsink_interp as vi
from tests import plain_process, tiny
from vsink_interp.model.session import Job

GRAPH = vi.Knockout("image -> query generated", ":2") | vi.VAR(p=0.6, rho=0.5, min_image_mass=0.1)
MASS = vi.probes.SegmentMass()
ASSET, PROMPT = tiny.PROMPTS["one image"]

COLLECT = """
import sys
import torch
import vsink_interp as vi
from vsink_interp import Job

job = Job.load(sys.argv[1])
lmm = vi.LMM.from_pretrained(sys.argv[2], remote=True)
for number, run in enumerate(job.collect(lmm)):
    run.save(f"{sys.argv[3]}/{number}")
"""


@pytest.fixture(scope="module")
def lmm(tiny_dir):
    found = vi.LMM.from_pretrained(tiny_dir, remote=True)
    found.sinks = tiny.SINKS
    return found


def asked(lmm, server):
    session = lmm.session(server)
    session.generate(ASSET, PROMPT, GRAPH | MASS, max_new_tokens=3)
    session.run(ASSET, PROMPT, GRAPH | vi.probes.AttentionMaps())
    return session


def test_a_session_is_one_round_trip(lmm, loopback):
    before, lines = loopback.jobs, []
    with asked(lmm, loopback.server(watch=lines.append)) as session:
        assert session.runs == []
    assert loopback.jobs == before + 1
    answer, one_pass = session.runs
    here = tiny.lmm().generate(ASSET, PROMPT, GRAPH | MASS, max_new_tokens=3)
    assert torch.equal(answer.ids, here.ids)
    torch.testing.assert_close(answer[MASS].values, here[MASS].values, atol=1e-5, rtol=0)
    assert one_pass.graph == GRAPH | vi.probes.AttentionMaps()
    assert any("will come back" in line for line in lines)
    assert any("sent" in line and "kB" in line for line in lines)


def test_queue_messages_reach_the_user(lmm, loopback):
    lines = []
    (loopback.folder / "hold").touch()
    job = asked(lmm, loopback.server(watch=lines.append)).submit()
    assert job.status == "QUEUED Your job is number 1 in the queue."
    (loopback.folder / "hold").unlink()
    job.collect(lmm)
    assert any("QUEUED Your job is number 1" in line or "RUNNING" in line for line in lines)


def test_a_saved_job_is_collected_by_another_process(lmm, loopback, tiny_dir, tmp_path):
    job = asked(lmm, loopback.server()).submit()
    job.save(tmp_path / "job.json")
    done = plain_process.run(COLLECT, tmp_path / "job.json", tiny_dir, tmp_path)
    assert done.returncode == 0, done.stderr
    here = job.collect(lmm)
    for number, run in enumerate(here):
        there = vi.Run.load(tmp_path / str(number))
        assert torch.equal(there.ids, run.ids) and torch.equal(there.logits, run.logits)
        assert there.graph == run.graph and there.records.keys() == run.records.keys()


@pytest.mark.parametrize("asks", ["run", "generate"])
def test_a_run_is_a_job_that_another_process_could_collect(lmm, loopback, tmp_path, asks):
    more = {"max_new_tokens": 3} if asks == "generate" else {}
    (loopback.folder / "hold").touch()
    job = getattr(lmm, asks)(
        ASSET, PROMPT, GRAPH | MASS, remote=loopback.server(watch=list).job, **more
    )
    assert job.status.startswith("QUEUED")
    (loopback.folder / "hold").unlink()
    job.save(tmp_path / "job.json")
    (there,) = Job.load(tmp_path / "job.json").collect(lmm)
    here = getattr(tiny.lmm(), asks)(ASSET, PROMPT, GRAPH | MASS, **more)
    assert torch.equal(there.ids, here.ids) and there.text == here.text
    torch.testing.assert_close(there.logits, here.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(there[MASS].values, here[MASS].values, atol=1e-5, rtol=0)


def test_a_job_goes_where_runs_go(loopback, tiny_dir, monkeypatch):
    from nnsight import CONFIG

    job = vi.LMM.from_pretrained(tiny_dir, remote=loopback.host).run(ASSET, PROMPT, remote="job")
    assert job.server.host == loopback.host
    monkeypatch.setattr(CONFIG.API, "HOST", loopback.host)
    here = vi.LMM.from_pretrained(tiny_dir)
    job = here.generate(ASSET, PROMPT, max_new_tokens=2, remote="job")
    assert job.server.host == loopback.host
    (run,) = job.collect(here)
    assert torch.equal(run.ids, here.generate(ASSET, PROMPT, max_new_tokens=2).ids)


def test_a_job_is_refused_where_there_is_none_to_give(lmm, loopback, tiny_dir, tmp_path):
    for asks in (
        lmm.session,
        lambda where: vi.LMM.from_pretrained(tiny_dir, remote=where),
        lambda where: vi.run_dataset(lmm, [(ASSET, PROMPT)], folder=tmp_path, remote=where),
    ):
        with pytest.raises(vi.InputError, match="give a job for remote='job'"):
            asks("job")
    before = loopback.jobs
    with pytest.raises(vi.CapabilityError, match="a server has its own"):
        lmm.generate(ASSET, PROMPT, do_sample=True, seed=1, remote="job")
    assert loopback.jobs == before


def test_an_empty_session_and_a_missing_job_say_so(lmm, loopback, tiny_dir, tmp_path):
    with pytest.raises(vi.ResultError, match="nothing to send"):
        lmm.session(loopback.server()).submit()
    with pytest.raises(vi.ResultError, match="holds no job"):
        Job.load(tmp_path / "none.json")
    address = "http://127.0.0.1:1"
    opened = vi.LMM.from_pretrained(tiny_dir, remote=address)
    assert opened.session().server.host == address
    assert lmm.session().server.host != address
    with pytest.raises(vi.InputError, match="a session is for a server"):
        tiny.lmm().session(False)


def test_a_session_refuses_what_it_cannot_ask_for(lmm, loopback):
    session, here = lmm.session(loopback.server()), tiny.lmm()
    context = here.compress(ASSET, PROMPT, vi.CompressedContext(0.5), max_new_tokens=2)
    with pytest.raises(vi.CapabilityError, match="continues a compressed context"):
        session.run(context.encode("count"))
    for given, why in (
        ({"seed": 1, "do_sample": True}, "run it locally"),
        ({"seed": None}, "run it locally"),
        ({"remote": True}, r"lmm.session\(remote"),
        ({"allow_large": True}, r"lmm.session\(remote"),
    ):
        with pytest.raises(vi.CapabilityError, match=why):
            session.generate(ASSET, PROMPT, max_new_tokens=2, **given)
    assert session.requests == []


def test_a_local_model_runs_there_too(loopback, tiny_dir):
    """With weights here, and by its name there."""
    here = vi.LMM.from_pretrained(tiny_dir)
    here.sinks = tiny.SINKS
    one, other = (here.run(ASSET, PROMPT, GRAPH, remote=r) for r in (False, loopback.server()))
    torch.testing.assert_close(one.logits, other.logits, atol=1e-5, rtol=0)
    with pytest.raises(vi.CapabilityError, match="knows models by their names"):
        tiny.fresh().run(ASSET, PROMPT, remote=loopback.server())


def test_a_server_shows_its_address():
    assert repr(vi.Server("http://127.0.0.1:1/")) == "Server('http://127.0.0.1:1')"
