"""Steps of an experiment in shards: which are taken where, and what is refused.

That the rows of real experiments are those of one process: tests/experiments/test_results.py and
tests/reproduction/test_entries.py; on Ray: tests/model/test_ray.py.
"""

import json
from functools import partial

import pytest
from typer.testing import CliRunner

import vsink_interp as vi
from tests import tiny
from vsink_interp import experiments as ex
from vsink_interp.cli.main import app
from vsink_interp.experiments.steps import taken
from vsink_interp.storage import logged

TAKEN = []


def spelt(lmm, letters="abcde", *, log=None, tick=None):
    """An experiment of a step a letter."""
    assert lmm is tiny.lmm()
    steps = ((one, lambda one=one: TAKEN.append(one) or 2 * one) for one in letters)
    return "".join(taken(steps, len(letters), {"of": ["letters"]}, log=log, tick=tick))


def run(log, experiment=spelt, **more):
    TAKEN.clear()
    return vi.run_experiment(experiment, tiny.lmm(), log=log, **more)


def merged(place, status=0):
    found = CliRunner().invoke(app, ["merge", str(place), "--json"])
    assert found.exit_code == status, found.output
    return json.loads(found.stdout)["logs"]


def test_shards_take_every_nth_step_and_the_rest_is_gone_on_with(tmp_path):
    log, told = tmp_path / "new" / "rows [0].jsonl", []
    log.parent.mkdir()
    others = {log.parent / f"rows [0].{name}.jsonl" for name in ("one-of-two", "b.0000-of-0001")}
    for other in others:  # of another measurement, and the shard of one
        other.touch()
    assert run(log, shard=(1, 3), tick=lambda *at: told.append(at)) is None
    assert TAKEN == ["b", "e"]
    assert told == [(1, 2), (2, 2)]
    assert run(log, shard=(1, 3)) is None
    assert TAKEN == [], "a shard that is called again goes on"
    for other in ({}, {"shard": (0, 2)}):
        with pytest.raises(vi.ResultError, match=r"not merged .*vsink merge .*rows \[0\]\.jsonl"):
            run(log, **other)
    assert merged(log, status=1) == [{"log": str(log), "rows": 2, "steps": 5}]
    run(log, shard=(1, 2))
    assert TAKEN == ["d"], "b is in the log of the whole"
    assert [one["rows"] for one in merged(log.parent, status=1)] == [3]
    assert run(log) == "aabbccddee"
    assert TAKEN == ["a", "c"]
    assert logged(log) == {one: 2 * one for one in "abcde"}
    assert {*log.parent.iterdir()} == {log, *others}
    assert merged(log)[0]["rows"] == 5, "merging what is merged is no fault"


def test_steps_of_one_name_are_one_step(tmp_path):
    """As cuts are that differ in layers without a pattern alone."""
    log, twice = tmp_path / "rows.jsonl", partial(spelt, letters="abca")
    for i in (0, 1):
        run(log, twice, shard=(i, 2))
    assert merged(log)[0] == {"log": str(log), "rows": 3, "steps": 3}
    assert run(log, twice) == run(None, twice) == "aabbccaa"
    assert len(log.read_text().splitlines()) == 1 + 3


def test_logs_of_other_work_are_not_joined(tmp_path):
    with pytest.raises(vi.ResultError, match="holds no shards"):
        merged_by_name = CliRunner().invoke(app, ["merge", str(tmp_path / "none.jsonl")])
        raise vi.ResultError(merged_by_name.stderr)
    log = tmp_path / "rows.jsonl"
    run(log, shard=(0, 2))
    with pytest.raises(vi.ResultError, match="holds shards of an experiment"):
        vi.merge_shards(tmp_path)
    log.write_text("")
    vi.run_dataset(
        tiny.lmm(), [(tiny.image(), "what ?")], folder=tmp_path / "data", shard=(0, 2),
        max_new_tokens=1,
    )  # fmt: skip
    refused = CliRunner().invoke(app, ["merge", str(tmp_path / "data" / "rows.jsonl")])
    assert "no shard of an experiment" in refused.stderr
    assert (tmp_path / "data" / "rows.0000-of-0002.jsonl").exists()


def unsteady(_lmm, *, log=None, tick=None):
    """Names its steps anew each time it is called."""
    TAKEN.append(0)
    return [*taken([(f"call {len(TAKEN)}", list)], 1, {}, log=log, tick=tick)]


@pytest.mark.parametrize(
    ("experiment", "given", "error", "why"),
    [
        (ex.spectrum, {}, vi.InputError, "spectrum takes no log=.*in one piece"),
        (partial(spelt, log="x"), {}, vi.InputError, "give log to run_experiment, not to spelt"),
        (lambda _lmm, **_: 1, {"shard": (0, 2)}, vi.InputError, "kept no steps in log="),
        (unsteady, {"shard": (0, 1)}, vi.ResultError, "no longer the step 'call 1'"),
        (spelt, {"shard": (0, 2), "log": None}, vi.InputError, "name one for all shards"),
        (spelt, {"shard": (2, 2)}, vi.InputError, "with i from 0 to n-1"),
        (spelt, {"replicas": 2}, vi.InputError, "are of on='ray'"),
        (spelt, {"chunk": 2}, vi.InputError, "chunk and attempts are of on='ray'"),
        (spelt, {"on": "ray", "chunk": 0}, vi.InputError, "at least 1 each"),
        (spelt, {"on": "ray", "shard": (0, 2)}, vi.InputError, "shard= out"),
        *(
            (partial(vi.reproduce, name), {"shard": (0, 2)}, vi.CapabilityError, "measures time")
            for name in ("A.latency", "B.table1")
        ),
    ],
)
def test_what_cannot_be_shared_out_is_refused(experiment, given, error, why, tmp_path):
    with pytest.raises(error, match=why):
        run(**{"log": tmp_path / "rows.jsonl", "experiment": experiment} | given)
