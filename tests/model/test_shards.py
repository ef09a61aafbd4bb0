"""Shards: what n processes write apart is what one writes, once it is merged."""

import json

import pytest
from typer.testing import CliRunner

import vsink_interp as vi
from tests import tiny
from vsink_interp.cli.main import app

SAMPLES = [(tiny.image(i), f"what is w{i} ?") for i in range(5)]


def answer(folder, **more):
    how = {"max_new_tokens": 1, "chunk": 1} | more
    return vi.run_dataset(tiny.lmm(), SAMPLES, vi.probes.SegmentMass(), folder=folder, **how)


def merged(folder, status=0):
    found = CliRunner().invoke(app, ["merge", str(folder), "--json"])
    assert found.exit_code == status, found.output
    return json.loads(found.stdout)


def content(folder):
    """All files of a folder; the lines of its log in the order of the chunks."""
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: sorted(text.split(b"\n")) for name, text in files.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    answer(folder)
    return content(folder)


def test_shards_share_the_chunks_out_and_merge_into_what_one_process_writes(tmp_path, whole):
    told = []
    for i in (1, 0):
        answer(tmp_path, shard=(i, 2), tick=lambda *at: told.append(at))
    assert told == [(1, 2), (2, 2), (1, 3), (2, 3), (3, 3)]
    assert [run.text for run in vi.RunStore(tmp_path)]  # before they are merged, too
    assert merged(tmp_path) == {"folder": str(tmp_path), "runs": 5, "samples": 5}
    assert content(tmp_path) == whole
    assert merged(tmp_path)["runs"] == 5, "merging what is merged is no fault"


def test_what_a_shard_left_undone_is_told_and_gone_on_with(tmp_path, whole):
    answer(tmp_path, shard=(0, 2))
    assert merged(tmp_path, status=1)["runs"] == 3
    told = []
    answer(tmp_path, shard=(2, 3), tick=lambda *at: told.append(at))  # chunk 2 is there
    assert told == [(1, 1)]
    merged(tmp_path, status=1)
    answer(tmp_path)
    assert content(tmp_path) == whole


def test_a_merge_that_was_stopped_goes_on(tmp_path, whole):
    for i in (0, 1):
        answer(tmp_path, shard=(i, 2))
    first = (tmp_path / "rows.0000-of-0002.jsonl").read_bytes()
    merged(tmp_path)
    (tmp_path / "rows.0000-of-0002.jsonl").write_bytes(first)  # stopped before it was removed
    merged(tmp_path)
    assert content(tmp_path) == whole


def test_a_changed_row_is_not_merged(tmp_path):
    answer(tmp_path, shard=(0, 2))
    row = next(tmp_path.glob("chunk-00002/*/run.json"))
    row.write_text(row.read_text() + " ")
    with pytest.raises(vi.ResultError, match="is not what was written"):
        vi.merge_shards(tmp_path)


def test_shards_of_different_work_are_not_merged(tmp_path):
    answer(tmp_path, shard=(0, 2))
    answer(tmp_path, shard=(1, 2), max_new_tokens=2)
    with pytest.raises(vi.ResultError, match="differ in: max_new_tokens"):
        vi.merge_shards(tmp_path)


def test_whole_and_shards_keep_out_of_each_others_way(tmp_path):
    """Each would clear away as unfinished what the other has written and not yet entered."""
    tries = []

    def meanwhile(*_):
        for refused in ({}, {"shard": (0, 2)}):
            with pytest.raises(vi.ResultError, match="another process or thread"):
                answer(tmp_path, **refused)
        with pytest.raises(vi.ResultError, match="no shards"):
            vi.merge_shards(tmp_path / "nothing")
        tries.append(0)

    answer(tmp_path, tick=meanwhile)
    answer(tmp_path / "shards", shard=(0, 2))
    for refused in ({}, {"shard": (0, 3)}):
        with pytest.raises(vi.ResultError, match=r"not merged.*vsink merge"):
            answer(tmp_path / "shards", **refused)

    def merge(*_):
        with pytest.raises(vi.ResultError, match="another process or thread"):
            vi.merge_shards(tmp_path / "shards")
        tries.append(1)

    answer(tmp_path / "shards", shard=(1, 2), tick=merge)
    assert tries == [0] * 5 + [1] * 2
    with pytest.raises(vi.ResultError, match="differ in: max_new_tokens"):
        answer(tmp_path, shard=(0, 2), max_new_tokens=2)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"shard": (2, 2)}, "with i from 0 to n-1"),
        ({"on": "rya"}, "did you mean 'ray'"),
        ({"replicas": 2}, "are of on='ray'"),
        ({"gpus_per_replica": 0}, "are of on='ray'"),
        ({"on": "ray", "shard": (0, 2)}, "leave remote=, allow_large= and shard= out"),
        ({"on": "ray", "remote": True}, "leave remote=, allow_large= and shard= out"),
    ],
)
def test_what_would_have_no_effect_is_refused(bad, why, tmp_path):
    with pytest.raises(vi.InputError, match=why):
        answer(tmp_path, **bad)
