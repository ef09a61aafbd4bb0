"""Stops at random moments, two processes at once, full disks: nothing finished is lost or wrong.

Once each in continuous integration, for about fifteen seconds of CPU, processes included, and a
minute at most; `pytest tests/test_stress.py --rounds 50` does it fifty times. Processes are
forked, for importing torch takes longer than what they do. Threads: `test_turns.py`.
"""

import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback

import pytest
import torch
from tqdm import tqdm
from typer.testing import CliRunner

import vsink_interp as vi
from tests import tiny
from vsink_interp.cli.main import app
from vsink_interp.model import RunStore
from vsink_interp.storage import reserved

FORK = multiprocessing.get_context("fork")
SAMPLES = [(tiny.image(i), f"what is w{i} ?") for i in range(6)]
GRAPH = vi.Knockout("image -> query generated") | vi.probes.SegmentMass()
SWEEP = ["knockout", "image -> query", "--scenes", "2", "--json"]


def spent():
    """Seconds of CPU, of this process and of those that have ended."""
    return sum(os.times()[:4])


@pytest.fixture(scope="module", autouse=True)
def _under_a_minute(rounds):
    before = spent()
    yield
    assert spent() - before < 60 * rounds


def start(work, *given):
    """Do some work in a process of its own, which says nothing."""

    def quiet():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Bars share a lock with the process that forked this one; killed, it would never be free.
        tqdm.set_lock(threading.RLock())
        null = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(null, stream)
        work(*given)

    process = FORK.Process(target=quiet)
    process.start()
    return process


def stop_at_random(work, given, how, longest):
    process = start(work, *given)
    time.sleep(random.uniform(0, longest))
    if process.is_alive():
        os.kill(process.pid, how)
    process.join(30)
    assert not process.is_alive()


def answer_all(folder):
    lmm = tiny.lmm()
    vi.run_dataset(lmm, SAMPLES, GRAPH, folder=folder, max_new_tokens=2, chunk=1)


def texts(folder):
    return [run.text for run in RunStore(folder)]


@pytest.fixture(scope="module")
def alone():
    """Each sample's answer, by `generate` alone."""
    return [tiny.lmm().generate(*one, GRAPH, max_new_tokens=2).text for one in SAMPLES]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill -9"])
def test_a_data_set_stopped_at_random_moments(tmp_path, rounds, how, alone):
    for turn in range(rounds):
        folder = tmp_path / str(turn)
        for _ in range(4):
            stop_at_random(answer_all, (folder,), how, 0.5)
        answer_all(folder)
        assert texts(folder) == alone
        assert not list(folder.rglob("*.part"))


def sweep(rows):
    app([*SWEEP, "--log", str(rows)])


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill -9"])
def test_a_sweep_of_the_command_line_stopped_at_random_moments(tmp_path, rounds, how, monkeypatch):
    """Of the tiny LMM: its random words are as good as any for this."""
    monkeypatch.setattr(vi.LMM, "from_pretrained", classmethod(lambda *_, **__: tiny.lmm()))
    want = json.loads(CliRunner().invoke(app, SWEEP).stdout)
    for turn in range(rounds):
        rows = tmp_path / f"{turn}.jsonl"
        for _ in range(3):
            stop_at_random(sweep, (rows,), how, 1.0)
        found = CliRunner().invoke(app, [*SWEEP, "--log", str(rows)])
        assert json.loads(found.stdout) == want


@pytest.mark.parametrize("n_processes", [2, 3])
def test_processes_on_one_folder(tmp_path, rounds, n_processes, alone):
    """One does the work, the others are refused or find it done; no row is made twice."""
    for turn in range(rounds):
        folder = tmp_path / str(turn)
        started = [start(answer_all, folder) for _ in range(n_processes)]
        for process in started:
            process.join(60)
        assert 0 in [process.exitcode for process in started]
        assert texts(folder) == alone
        assert len((folder / "rows.jsonl").read_text().splitlines()) == 1 + len(SAMPLES)


def interrupt_runs(times):
    """Runs of one model, interrupted at random moments, and after each one that goes well."""
    lmm, encoding = tiny.fresh(), tiny.encode()
    want = tiny.plain(lmm, encoding)

    def interrupt(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, interrupt)
    stopped = 0
    try:
        for _ in range(times):
            try:
                # Once more each second: Python ignores what is raised within a finaliser.
                signal.setitimer(signal.ITIMER_REAL, random.uniform(0.001, 0.05), 1.0)
                while True:
                    lmm.generate(encoding, graph=GRAPH, max_new_tokens=3)
            except KeyboardInterrupt:
                signal.setitimer(signal.ITIMER_REAL, 0)
                stopped += 1
            assert torch.equal(lmm.run(encoding).logits, want)
            assert torch.equal(tiny.plain(lmm, encoding), want)
    except BaseException:  # noqa: BLE001 (said by the exit status)
        traceback.print_exc(file=sys.__stderr__)
        os._exit(1)
    os._exit(0 if stopped == times else 2)


def test_a_model_after_interrupts_at_random_moments(rounds):
    process = FORK.Process(target=interrupt_runs, args=(15 * rounds,))
    process.start()
    process.join(50 * rounds)
    process.kill()  # one that hangs would keep the whole run from its end
    process.join()
    assert process.exitcode == 0


def answer_in_little_room(folder, room, after):
    def fill(done, total):
        del total
        if done == after:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    fill(0, 0)
    lmm = tiny.lmm()
    try:
        vi.run_dataset(lmm, SAMPLES, GRAPH, folder=folder, max_new_tokens=2, chunk=1, tick=fill)
    except vi.ResultError as error:
        os._exit(3 if "cannot be written" in str(error) else 4)


@pytest.mark.parametrize(("room", "after"), [(100, 0), (2000, 0), (100, 3), (2000, 3)])
def test_too_little_room_is_said_and_nothing_finished_is_lost(tmp_path, room, after, alone):
    """A limit on the size of files: too small for the log's first line, or for a row."""
    process = start(answer_in_little_room, tmp_path, room, after)
    process.join(60)
    assert process.exitcode == 3
    assert texts(tmp_path) == alone[:after]
    answer_all(tmp_path)
    assert texts(tmp_path) == alone


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, with a megabyte of room."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try:
        made = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no `mount` here")
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("left", [0, 12, 60])
def test_a_full_disk_is_said_and_nothing_finished_is_lost(small_disk, left, alone):
    """A real one, with so many kilobytes left; when there is room again the work goes on."""
    folder, ballast = small_disk / "rows", small_disk / "ballast"
    ballast.write_bytes(bytes((1024 - left) * 1024))
    with pytest.raises(vi.ResultError, match=r"cannot be written: No space left.*Make room"):
        answer_all(folder)
    done = texts(folder) if left == 60 else []
    assert done == alone[: len(done)] and len(done) < len(alone)
    assert done or left < 60, "no row was finished before"
    with pytest.raises(vi.ResultError, match="No space left"), reserved(small_disk / "a", 2**20):
        pytest.fail("the work began")
    ballast.unlink()
    answer_all(folder)
    assert texts(folder) == alone
    assert not list(small_disk.rglob("*.part"))
