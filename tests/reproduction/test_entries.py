"""Every reproduction on the toy: it runs, is killed, goes on, is drawn, and says something."""

import json
import multiprocessing
import os
import signal
from dataclasses import replace

import numpy as np
import pytest

import vsink_interp as vi
from tests import tiny
from vsink_interp import plot
from vsink_interp.engine import execute
from vsink_interp.model import backends, compressed_context
from vsink_interp.model.progress import silent
from vsink_interp.remote import compile_run
from vsink_interp.reproduction import ENTRIES, Measurements, Setup, over_tasks
from vsink_interp.reproduction.over_cases import OverCases
from vsink_interp.reproduction.over_tasks import OverTasks
from vsink_interp.storage import merge_logs
from vsink_interp.toy import weights_dir

FORK = multiprocessing.get_context("fork")
PINNED = (
    "A.fig1 A.fig2 A.fig3a A.fig3b A.fig3c A.fig3d A.fig4 A.fig7 A.fig8a A.fig8b A.table1 A.table2 "
    "A.table3 A.table4 A.table5 A.table6 A.sweeps A.vcd A.latency A.last-layer B.fig1 B.fig2e "
    "B.fig2f B.fig3 B.fig4 B.fig5 B.fig6 B.fig7 B.table1"
).split()


def small(entry):
    """The entry in two steps: of one case each, or of the questions of a task or of some."""
    if isinstance(entry.measure, OverCases):
        return replace(entry.measure, at_once=1), 2
    return replace(entry.measure, at_once=8 if len(entry.measure.toy) == 1 else 16), 12


def killed(measure, name, lmm, setup):
    """Measure until the first step is written, and die as from kill -9."""

    def tick(_done, _total):
        os.kill(os.getpid(), signal.SIGKILL)

    process = FORK.Process(target=measure, args=(name, lmm, replace(setup, tick=tick)))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL, process.kill()


@pytest.fixture(scope="module")
def weightless():
    """The toy as it is opened for a server, which nothing here asks."""
    return vi.LMM.from_pretrained(weights_dir, remote="http://127.0.0.1:1")


@pytest.fixture
def compiled(weightless, monkeypatch):
    """Compiles each run for a server as well, which raises for what could not be sent."""

    def carried_out(hooked, *args):
        counted.append(compile_run(weightless.hooked, weightless.backend.hosted, *args))
        return execute(hooked, *args)

    counted = []
    for module in (backends, compressed_context):
        monkeypatch.setattr(module, "execute", carried_out)
    return counted


def steps_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_an_entry_goes_on_after_kill_9_and_in_a_shard_and_is_drawn(entry, lmm, tmp_path, compiled):
    """And every run of it could be sent to a server, or it says why a server cannot measure it."""
    measure, limit = small(entry)
    setup = Setup(limit=limit, quick=True, log=tmp_path, tick=silent)
    killed(measure, entry.name, lmm, setup)
    (log,) = tmp_path.glob("*.jsonl")
    before = steps_of(log)

    def of_shard(lmm, **given):
        return measure(entry.name, lmm, replace(setup, **given))

    vi.run_experiment(of_shard, lmm, log=tmp_path, shard=(1, 2), tick=silent)
    merge_logs(tmp_path)
    shared = steps_of(log)
    found = measure(entry.name, lmm, setup)
    rows, images = found.rows, found.images
    after = steps_of(log)
    assert compiled or entry.here
    assert len(before) == 1
    assert after[: len(before)] == before, "what was finished is not measured again"
    assert after == shared, "the shard has measured what was left"
    assert len(after) > len(before), "there was something left to measure"
    assert len({step["step"] for step in after}) == len(after)
    again = measure(entry.name, lmm, setup)
    assert repr(again.rows) == repr(rows)
    assert again.data == found.data

    found = Measurements(entry.name, tuple(rows), {"model": "toy"}, images)
    assert all(np.isfinite(row["value"]) for row in found.rows)
    assert str(entry.outcome(found).because)
    assert found.table()
    assert plot.png(found.plot())[:4] == b"\x89PNG"


def test_rows_do_not_depend_on_how_many_are_measured_at_once(lmm):
    (entry,) = (one for one in ENTRIES if one.name == "B.fig2e")
    one, both = (
        replace(entry.measure, at_once=size)("B.fig2e", lmm, Setup(limit=2, tick=silent)).rows
        for size in (1, 2)
    )

    def key(row):
        return row["case"], row["flow"], row.get("layers", "")

    assert {key(row): row["value"] for row in one} == {key(row): row["value"] for row in both}


def test_the_list_has_all_that_is_pinned_once():
    names = [entry.name for entry in ENTRIES]
    assert set(PINNED) <= set(names)
    assert len(set(names)) == len(names)
    for entry in ENTRIES:
        assert isinstance(entry.measure, OverCases | OverTasks)
        assert not entry.claim.endswith(".")


def test_a_seed_shows_other_scenes_in_every_entry(monkeypatch):
    """`--seed`: the first toy scene, of benchmarks too."""
    shown = []

    def asked(_lmm, tasks, _graphs, **_):
        shown.append([question.image.tobytes() for task in tasks for question in task.questions])
        raise InterruptedError

    monkeypatch.setattr(over_tasks, "evaluate", asked)
    for entry in (one for one in ENTRIES if isinstance(one.measure, OverTasks)):
        measure = replace(entry.measure, arms=lambda _lmm, _setup: {})
        for seed in (0, 0, 1):
            with pytest.raises(InterruptedError):
                measure(entry.name, tiny.lmm(), Setup(limit=4, seed=seed, tick=silent))
        assert shown[-3] == shown[-2] != shown[-1]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_seed_that_draws_nothing_is_refused(entry, tmp_path):
    """On data of one's own a seed draws tokens, heads and noise; elsewhere it changes nothing."""
    with pytest.raises(vi.InputError) as told:
        vi.reproduce(entry.name, tiny.lmm(), tmp_path, seed=1, tick=silent)
    assert ("a seed changes nothing" in str(told.value)) is not entry.draws


def test_chance_follows_the_seed(monkeypatch):
    """Contexts of chance tokens are those of the seed, in all three entries that have some."""
    asked = []

    def compress(_image, _opening, specs, **_):
        asked.append([spec.seed for spec in specs if spec.score == "random"])
        raise InterruptedError

    monkeypatch.setattr(vi.LMM, "compress", staticmethod(compress))
    for name in ("B.fig5", "B.selection", "AB.top-k"):
        (entry,) = (one for one in ENTRIES if one.name == name)
        with pytest.raises(InterruptedError):
            entry.measure(name, tiny.lmm(), Setup(limit=1, seed=3, tick=silent))
        assert {*asked[-1]} == {3}


def test_an_unknown_name_lists_the_known(lmm):
    with pytest.raises(vi.NotationError, match=r"A\.fig3b"):
        vi.reproduce("A.fig3x", lmm)


def test_a_log_of_another_model_is_refused(lmm, tmp_path):
    vi.reproduce("A.fig8a", lmm, limit=1, log=tmp_path, tick=silent)
    with pytest.raises(vi.ResultError, match="another"):
        vi.reproduce("A.fig8a", tiny.lmm(), limit=1, log=tmp_path, tick=silent)


def test_a_quick_log_is_not_taken_for_a_full_one(lmm, tmp_path):
    """Quick runs measure fewer draws and layers of the same cases."""
    vi.reproduce("A.fig8a", lmm, limit=1, quick=True, log=tmp_path, tick=silent)
    with pytest.raises(vi.ResultError, match="another"):
        vi.reproduce("A.fig8a", lmm, limit=1, log=tmp_path, tick=silent)


@pytest.mark.parametrize("name", ["A.fig8a", "A.table1"])
def test_no_case_is_refused(lmm, name):
    with pytest.raises(vi.InputError, match="at least one"):
        vi.reproduce(name, lmm, limit=0, tick=silent)


def test_shares_of_less_than_one_image_token_are_left_out(lmm):
    """1 % of the toy's 64 image tokens is none; of a 7B's 576 it is five."""
    (entry,) = (one for one in ENTRIES if one.name == "B.fig5")
    rows = entry.measure("B.fig5", lmm, Setup(limit=1, tick=silent)).rows
    kept = {row["keep"] for row in rows if row["chosen"] == "by attention"}
    assert kept == {0.02, 0.05, 0.1, 0.2, 0.5, 1.0}
