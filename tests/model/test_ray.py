"""Samples answered by replicas on Ray: the same rows, whatever becomes of the replicas.

With more replicas, more deaths and 2,000 images: `make ray`.
"""

import gc
import os
import pickle
import signal
import sys
import warnings
from functools import partial

import pytest

import vsink_interp as vi
from tests import tiny
from vsink_interp import experiments as ex
from vsink_interp.model import ray_workers
from vsink_interp.model.run_store import Chunk
from vsink_interp.storage import logged

ray = pytest.importorskip("ray", reason="needs the package ray: pip install 'vsink-interp[ray]'")

SAMPLES = [(tiny.image(i), f"what is w{i} ?") for i in range(7)]
GRAPH = vi.Knockout("image -> generated") | vi.probes.SegmentMass(groups=("sink", "image"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two worker processes, on this machine alone; nothing of it is left in the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # 15 by itself, which starves on a busy machine
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # for its token
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
            logging_level="error", object_store_memory=80_000_000,
        )  # fmt: skip
        yield
        with warnings.catch_warnings():  # it leaves what it started to the system
            warnings.simplefilter("ignore", ResourceWarning)
            ray.shutdown()
            gc.collect()


def dies_once(folder):
    """Opens the model in a replica, of which the first that answers a second chunk is killed."""
    lmm = tiny.fresh()
    generate, asked = lmm.generate, []

    def mortal(*args, **given):
        asked.append(0)
        if len(asked) == 3 and not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return generate(*args, **given)

    lmm.generate = mortal
    return lmm


@pytest.mark.usefixtures("cluster")
def test_rows_are_those_of_one_process_although_a_replica_is_killed(tmp_path):
    told = []
    how = {"max_new_tokens": 2, "chunk": 2}
    opener = partial(dies_once, tmp_path)
    store = vi.run_dataset(
        opener, SAMPLES, GRAPH, folder=tmp_path / "ray", on="ray", replicas=2, gpus_per_replica=0,
        tick=lambda *at: told.append(at), **how
    )  # fmt: skip
    assert (tmp_path / "died").exists(), "no replica was killed"
    here = vi.run_dataset(tiny.lmm(), SAMPLES, GRAPH, folder=tmp_path / "here", **how)
    assert len(store) == len(here) == len(SAMPLES)
    assert told == sorted(told)
    assert (len(told), told[-1]) == (4, (7, 7))
    for there, run in zip(store, here, strict=True):
        assert there.ids.equal(run.ids)
        assert there[vi.probes.SegmentMass].values.allclose(
            run[vi.probes.SegmentMass].values, 0, 1e-5
        )
        assert there.logits.allclose(run.logits, 0, 1e-5)
    files = [{path.name for path in (tmp_path / name).iterdir()} for name in ("ray", "here")]
    assert files[0] == files[1]


@pytest.mark.usefixtures("cluster")
def test_an_experiment_is_that_of_one_process_although_a_replica_is_killed(tmp_path):
    """Its log too: begun here, gone on with there, and read here again."""
    asked = tuple(tiny.image(i) for i in range(2)), ("what is w1 ?",) * 2
    cases = ex.Cases(*asked, max_new_tokens=2, batch_size=1)
    sweep = partial(ex.knockout_sweep, cases=cases, flows=["image -> generated"])
    whole = sweep(tiny.lmm(), layers=[0, 1, 2], log=tmp_path / "whole.jsonl")
    log, told = tmp_path / "rows.jsonl", []
    sweep(tiny.lmm(), layers=[1], log=log)
    found = vi.run_experiment(
        partial(sweep, layers=[0, 1, 2]), partial(dies_once, tmp_path), log=log, on="ray",
        replicas=2, gpus_per_replica=0, chunk=3, tick=lambda *at: told.append(at),
    )  # fmt: skip
    assert (tmp_path / "died").exists(), "no replica was killed"
    assert found.f1.tolist() == whole.f1.tolist()
    assert found.provenance["weights"] == whole.provenance["weights"]
    assert [done for done, _ in told] in ([7, 8], [5, 8])
    assert logged(log) == logged(tmp_path / "whole.jsonl")
    assert len(log.read_text().splitlines()) == 1 + 8
    again = sweep(tiny.lmm(), layers=[0, 1, 2], log=log)
    assert again.f1.tolist() == whole.f1.tolist()


@pytest.mark.usefixtures("cluster")
def test_replicas_that_no_machine_has_room_for_are_refused_at_once(tmp_path):
    """By default each wants a GPU, and this cluster has none: it would wait for ever."""
    with pytest.raises(
        vi.CapabilityError, match=r"2 CPU, 0 GPU; without GPUs say gpus_per_replica=0"
    ):
        vi.run_dataset(tiny.lmm(), SAMPLES, folder=tmp_path / "rows", on="ray")
    assert not (tmp_path / "rows").exists()


@pytest.mark.parametrize(
    ("nodes", "replicas", "gpus", "room"),
    [
        ([(8, 4), (8, 4)], 8, 1, None),
        ([(8, 4), (8, 4)], 9, 1, 8),
        ([(8, 2), (8, 2)], 1, 4, 0),  # four in all, and on no machine
        ([(1, 4)], 2, 1, 1),  # each wants a core as well
        ([(8, 1)], 2, 0.5, None),
        ([(3, 0)], 3, 0, None),
        ([(3, 0)], 4, 0, 3),
    ],
)
def test_room_is_counted_by_machine(nodes, replicas, gpus, room):
    held = [{"Alive": True, "Resources": {"CPU": cpus, "GPU": has}} for cpus, has in nodes]
    held.append({"Alive": False, "Resources": {"CPU": 64, "GPU": 8}})
    if room is None:
        ray_workers.refuse_too_many(held, replicas, gpus)
        return
    with pytest.raises(vi.CapabilityError, match=f"the cluster has room for {room}:"):
        ray_workers.refuse_too_many(held, replicas, gpus)


def test_gpus_for_a_model_on_the_cpu_would_idle():
    packed = ray_workers.Packed.of(tiny.fresh())
    with pytest.raises(vi.InputError, match=r"on the CPU.*gpus_per_replica=0, or give"):
        ray_workers.refuse_idle_gpus(packed, 0.5)
    ray_workers.refuse_idle_gpus(packed, 0)
    ray_workers.refuse_idle_gpus(tiny.fresh, 1)


def test_a_model_is_sent_with_all_that_its_answers_depend_on():
    lmm = tiny.fresh()
    lmm.hooked.failed = {"hook_embed": "a reason"}
    there = pickle.loads(pickle.dumps(ray_workers.Packed.of(lmm)))()
    assert (there.sinks, there.hooked.failed) == (tiny.SINKS, lmm.hooked.failed)
    assert vi.model.fingerprint(there) == vi.model.fingerprint(lmm)
    lmm.hf_model.hf_device_map = {"": 0}
    with pytest.raises(vi.CapabilityError, match="give a function that opens it"):
        ray_workers.Packed.of(lmm)


def test_replicas_of_different_weights_do_not_answer_together():
    on = ray_workers.OnRay(tiny.fresh, 2, 0, 1)
    task = ray_workers.Task(None, ray_workers.OPENED)
    on.proceed(task, ({"model": "x", "weights": "a"}, None))
    with pytest.raises(vi.ResultError, match="they differ in: weights"):
        on.proceed(task, ({"model": "x", "weights": "b"}, None))


def test_a_chunk_over_which_replicas_are_lost_is_given_up(monkeypatch):
    on = ray_workers.OnRay(tiny.fresh, 1, 0, 2)
    monkeypatch.setattr(on, "start", lambda: None)
    monkeypatch.setattr(on.ray, "kill", lambda _: None)
    task = ray_workers.Task(None, "chunk-00003", Chunk(3, 6, SAMPLES[:2]))
    on.lost(task, MemoryError("too little"))
    with pytest.raises(vi.UnreachableError, match=r"2 replicas were lost.*chunk-00003: too little"):
        on.lost(task, MemoryError("too little"))


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(vi.CapabilityError, match=r"pip install 'vsink-interp\[ray\]'"):
        ray_workers.OnRay(tiny.fresh, 1, 0, 1)
    with pytest.raises(vi.InputError, match="at least 1, and at least 0"):
        ray_workers.OnRay(tiny.fresh, 0, 0, 1)
