"""What goes wrong on the way: a clear error each time, and nothing that is finished is lost."""

import json
import multiprocessing
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest
import torch

import vsink_interp as vi
from tests import tiny
from tests.remote.conftest import SCRIPT, Loopback
from vsink_interp.model import RunStore, run_dataset
from vsink_interp.model.progress import silent
from vsink_interp.remote.client import Server
from vsink_interp.toy import weights_dir

KEY = "a-key-that-must-not-leak"
ASSET, PROMPT = tiny.PROMPTS["one image"]


@pytest.fixture
def mortal(tmp_path, tiny_dir):
    """A server for one test, to be killed."""
    found = Loopback(tmp_path, [tiny_dir]).start()
    yield found
    found.kill()


@pytest.fixture(scope="module")
def lmm(tiny_dir):
    found = vi.LMM.from_pretrained(tiny_dir, remote="http://127.0.0.1:1")
    found.sinks = tiny.SINKS
    return found


def ask(lmm, server, graph=None, **more):
    return lmm.generate(ASSET, PROMPT, graph, max_new_tokens=2, remote=server, **more)


def test_no_server(lmm):
    with pytest.raises(vi.UnreachableError, match=r"127\.0\.0\.1:1 does not answer"):
        ask(lmm, Server("http://127.0.0.1:1", patience=0.1))


def test_the_default_is_what_the_model_was_opened_with(tiny_dir, loopback):
    found = vi.LMM.from_pretrained(tiny_dir, remote=loopback.host)
    assert found.run(ASSET, PROMPT).ids.shape[0] == 1
    with pytest.raises(vi.CapabilityError, match="opened without weights"):
        found.run(ASSET, PROMPT, remote=False)
    for needs_it in (
        lambda: found.trace(ASSET, PROMPT),
        lambda: found.capabilities,
    ):
        with pytest.raises(vi.CapabilityError, match="needs the model here"):
            needs_it()


@pytest.mark.parametrize("stage", ["queued", "running"])
def test_a_server_killed_on_the_way(lmm, mortal, stage):
    ask(lmm, mortal.server())
    mortal.fault(stage)
    with pytest.raises(vi.UnreachableError, match="does not answer"):
        ask(lmm, mortal.server(patience=0.3))


def test_a_job_that_a_new_server_does_not_know(lmm, mortal):
    mortal.fault("queued")
    server = mortal.server(patience=0.3)
    session = lmm.session(server)
    session.generate(ASSET, PROMPT, max_new_tokens=2)
    job = session.submit()
    mortal.wait()
    mortal.start()
    with pytest.raises(vi.UnreachableError, match="does not know this job"):
        job.collect(lmm)


def test_a_download_that_is_cut_is_asked_for_again(lmm, loopback):
    loopback.fault("cut")
    run = ask(lmm, loopback.server())
    assert not (loopback.folder / "fault").exists(), "nothing was cut"
    assert torch.equal(run.ids, tiny.lmm().generate(ASSET, PROMPT, max_new_tokens=2).ids)


def test_versions_that_do_not_fit(lmm, loopback):
    loopback.fault("versions")
    before = loopback.jobs
    with pytest.raises(vi.CapabilityError, match=r"transformers 4\.40\.0"):
        ask(lmm, loopback.server())
    (loopback.folder / "fault").unlink()
    assert loopback.jobs == before


def beyond(activation, hook):
    del hook
    wrong = (activation[0, 0, 0, 0] * 0 + 999).long()
    return activation.index_select(0, wrong.reshape(1)) + activation  # only the server can know


def test_an_exception_in_the_users_function_names_its_line(lmm, loopback):
    with pytest.raises(vi.RemoteError, match=r"test_faults\.py:\d+: IndexError") as caught:
        ask(lmm, loopback.server(), vi.Fn("attn.hook_z", beyond, layers=1))
    line = int(str(caught.value).split("test_faults.py:")[1].split(":")[0])
    assert "only the server can know" in Path(__file__).read_text().splitlines()[line - 1]


def deciding(activation, hook):
    del hook
    return activation * 2 if activation.mean() > 0 else activation


def test_a_function_that_decides_by_numbers_is_refused_before_anything_is_sent(lmm, loopback):
    before = loopback.jobs
    with pytest.raises(vi.CapabilityError, match=r"test_faults\.py:\d+ .*torch\.where"):
        ask(lmm, loopback.server(), vi.Fn("attn.hook_z", deciding))
    assert loopback.jobs == before


def test_full_patterns_and_large_results_ask_first(lmm, loopback, monkeypatch):
    before, server = loopback.jobs, loopback.server()
    with pytest.raises(vi.CapabilityError, match=r"full patterns .*allow_large"):
        ask(lmm, server, vi.probes.Pattern())
    with monkeypatch.context() as patch:
        patch.setattr("vsink_interp.remote.client.LARGE", 1000)
        with pytest.raises(vi.CapabilityError, match=r"logits 1\.\d kB.*allow_large"):
            lmm.generate(ASSET, PROMPT, max_new_tokens=6, remote=server)
        assert loopback.jobs == before
        run = ask(lmm, server, vi.probes.Pattern(), allow_large=True)
        ask(lmm, loopback.server(allow_large=True), vi.probes.Pattern())
    assert run[vi.probes.Pattern()].values.shape[2] == tiny.HEADS


def test_a_model_that_is_not_hosted(lmm, tmp_path):
    other = Loopback(tmp_path, [weights_dir]).start()
    try:
        with pytest.raises(vi.RemoteError, match="is not deployed here"):
            ask(lmm, other.server())
    finally:
        other.kill()


def test_a_wrong_or_missing_key(lmm, tmp_path, tiny_dir, monkeypatch, capfd):
    from nnsight import CONFIG

    guarded = Loopback(tmp_path, [tiny_dir], key=KEY).start()
    try:
        for key, said in ((None, "none is set"), ("wrong", "rejects this API key")):
            monkeypatch.setattr(CONFIG.API, "APIKEY", key)
            with pytest.raises(vi.RemoteError, match=rf"{said}: run nnsight\.login"):
                ask(lmm, guarded.server())
        monkeypatch.setattr(CONFIG.API, "APIKEY", KEY)
        session = lmm.session(guarded.server())
        session.generate(ASSET, PROMPT, max_new_tokens=2)
        job = session.submit()
        job.save(tmp_path / "job.json")
        (run,) = job.collect(lmm)
        run.save(tmp_path / "run")
    finally:
        guarded.kill()
    for path in [tmp_path / "job.json", *(tmp_path / "run").iterdir()]:
        assert KEY.encode() not in path.read_bytes()
    assert KEY not in "".join(capfd.readouterr())


FORK = multiprocessing.get_context("fork")


@cache
def samples():
    return [(tiny.image(i), f"what is w{i % 9} ?") for i in range(60)]


def client(folder, host, rows):
    """What a process does that is killed: forked, for importing torch takes longer."""
    lmm = vi.LMM.from_pretrained(folder, remote=Server(host, patience=1.0), check=False)
    graph = vi.Knockout("image -> query generated") | vi.probes.SegmentMass()
    run_dataset(lmm, samples(), graph, folder=rows, max_new_tokens=2, chunk=10, tick=silent)


def test_a_data_set_survives_the_death_of_client_and_server(mortal, tiny_dir, tmp_path):
    folder = tmp_path / "rows"
    first, second = (
        FORK.Process(target=client, args=(tiny_dir, mortal.host, folder)) for _ in range(2)
    )
    first.start()
    while len(RunStore(folder)) < 20:
        assert first.is_alive()
        time.sleep(0.02)
    first.kill()
    first.join()
    done = len(RunStore(folder))
    assert 20 <= done < 60 and done % 10 == 0
    second.start()
    while len(RunStore(folder)) < done + 10:
        assert second.is_alive()
        time.sleep(0.02)
    mortal.kill()
    time.sleep(0.2)
    mortal.start()
    second.join(120)
    assert second.exitcode == 0, second.kill()
    rows = RunStore(folder)
    assert [int(path.name) for path in rows.paths()] == list(range(60))
    texts = [run.text for run in rows]
    graph = vi.Knockout("image -> query generated")
    for i in (0, 45, 59):
        here = tiny.lmm().generate(*samples()[i], graph, max_new_tokens=2)
        assert texts[i] == here.text
    lmm = vi.LMM.from_pretrained(tiny_dir, remote=mortal.host)
    with pytest.raises(vi.ResultError, match="differ in: graph"):
        run_dataset(lmm, samples(), folder=folder, max_new_tokens=2, chunk=10)


def test_no_server_outlives_the_tests(tmp_path):
    """However they ended."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    nursery = subprocess.Popen([sys.executable, str(SCRIPT)], **pipes)
    server = Loopback(tmp_path, [])
    try:
        nursery.stdin.write(json.dumps([str(tmp_path), [], None]) + "\n")
        nursery.stdin.flush()
        server.number = int(nursery.stdout.readline())
        assert server.alive
        nursery.kill()
        nursery.communicate()
        until = time.monotonic() + 20
        while server.alive and time.monotonic() < until:
            time.sleep(0.1)
        assert not server.alive
    finally:
        server.kill()
