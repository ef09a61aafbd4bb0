"""Rows of a data set, made here; made by a server: `remote/test_faults.py`."""

import shutil
from dataclasses import dataclass
from typing import ClassVar

import pytest
from PIL import Image

import vsink_interp as vi
from tests import tiny
from vsink_interp.model import graph_key

SAMPLES = [tiny.PROMPTS["one image"], (tiny.image(4), "count")]
MASS = vi.probes.SegmentMass(groups=("sink", "image"))


def rows(folder, samples=SAMPLES, graph=None, sinks=tiny.SINKS):
    lmm = tiny.fresh()
    lmm.sinks = sinks
    return vi.run_dataset(lmm, samples, graph, folder=folder, max_new_tokens=2, chunk=1)


def test_rows_are_what_generate_gives_in_the_order_of_the_samples(tmp_path):
    found = rows(tmp_path, graph=MASS)
    assert len(found) == len(SAMPLES)
    for run, sample in zip(found, SAMPLES, strict=True):
        here = tiny.lmm().generate(*sample, MASS, max_new_tokens=2)
        assert run.text == here.text
        assert run[MASS].values.equal(here[MASS].values)


def test_rows_of_other_sinks_are_refused_where_the_graph_needs_them(tmp_path):
    other = vi.SinkDims((1, 9), 1.6)
    rows(tmp_path / "free")
    assert len(rows(tmp_path / "free", sinks=other)) == len(SAMPLES)
    rows(tmp_path / "mass", graph=MASS)
    with pytest.raises(vi.ResultError, match="differ in: sinks"):
        rows(tmp_path / "mass", graph=MASS, sinks=other)


def test_images_of_equal_bytes_and_another_shape_are_others(tmp_path):
    wide, high = (Image.new("RGB", size, "red") for size in ((20, 10), (10, 20)))
    rows(tmp_path, [(wide, "count")])
    with pytest.raises(vi.ResultError, match="differ in: digest"):
        rows(tmp_path, [(high, "count")])


@pytest.mark.parametrize("bad", [{"samples": []}, {"chunk": 0}, {"attempts": 0}])
def test_no_samples_chunk_or_attempts(bad, tmp_path):
    given = {"samples": SAMPLES, "folder": tmp_path} | bad
    with pytest.raises(vi.InputError, match="at least 1"):
        vi.run_dataset(tiny.lmm(), **given)


USELESS = {
    "attempts where nothing can be lost": ({"attempts": 3}, "attempts=3.*this run is local"),
    "replicas of one process": ({"replicas": 2}, "on='ray'"),
    "GPUs of one process": ({"gpus_per_replica": 0}, "on='ray'"),
    "a server beside Ray": ({"on": "ray", "remote": True}, "leave remote="),
    "large results beside Ray": ({"on": "ray", "allow_large": True}, "leave remote="),
    "a shard of what Ray shares out": ({"on": "ray", "shard": (0, 2)}, "leave remote="),
    "another place": ({"on": "slurm"}, "choose from: here, ray"),
    "a shard beyond the last": ({"shard": (2, 2)}, "from 0 to n-1"),
}


@pytest.mark.parametrize("name", USELESS)
def test_an_option_without_effect_where_it_is_given_is_refused(name, tmp_path):
    given, said = USELESS[name]
    with pytest.raises(vi.InputError, match=said):
        vi.run_dataset(tiny.lmm(), SAMPLES, folder=tmp_path / "rows", **given)
    assert not (tmp_path / "rows").exists()


def test_rows_of_other_weights_or_functions_are_refused(tmp_path):
    shift, other = (vi.Fn("hook_resid_mid", _shift(by)) for by in (0.5, 50.0))
    rows(tmp_path, graph=shift)
    assert len(rows(tmp_path, graph=vi.Fn("hook_resid_mid", _shift(0.5)))) == len(SAMPLES)
    with pytest.raises(vi.ResultError, match="differ in: graph"):
        rows(tmp_path, graph=other)
    lmm = tiny.fresh(seed=1)
    with pytest.raises(vi.ResultError, match="differ in: weights"):
        vi.run_dataset(lmm, SAMPLES, shift, folder=tmp_path, max_new_tokens=2, chunk=1)


def _shift(by):
    return lambda value, hook: value + by  # noqa: ARG005


def _own(by):
    @dataclass(frozen=True)
    class Own(vi.Edit):
        layers: str = ":"
        hook: ClassVar[str] = "attn.hook_pattern"

        def apply(self, value, site):
            del site
            return value * by

    return Own()


def test_edits_of_a_second_pass_are_told_apart_by_what_they_do():
    def key(edit):
        return graph_key(vi.EditGraph(vi.Contrast(graph=edit)))

    one, same, other = (_own(by) for by in (0.5, 0.5, 2.0))
    assert key(one) == key(same) != key(other)
    odd = {"fn": _shift(object()), "key": "by an object"}
    assert key(vi.Fn("attn.hook_z", **odd)) == key(vi.Fn("attn.hook_z", **odd))
    with pytest.raises(vi.ResultError, match="key='shift by 2'"):
        key(vi.Fn("attn.hook_z", odd["fn"]))


@pytest.mark.parametrize("name", ["run.json", "run.safetensors"])
def test_a_flipped_bit_in_a_row_is_noticed(tmp_path, name):
    found = rows(tmp_path)
    path = found.paths()[1] / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for look in (lambda: list(found), lambda: rows(tmp_path)):
        with pytest.raises(vi.ResultError, match=f"{name} is not what was written.*remove"):
            look()
    shutil.rmtree(path.parent.parent)
    assert [run.text for run in rows(tmp_path)] == [run.text for run in rows(tmp_path / "anew")]


def test_a_row_that_is_gone_is_noticed(tmp_path):
    found = rows(tmp_path)
    shutil.rmtree(found.paths()[0])
    for look in (lambda: list(found), lambda: rows(tmp_path)):
        with pytest.raises(vi.ResultError, match=r"has lost 1 of its 1 rows.*remove"):
            look()


def test_what_a_stop_left_is_cleared_away(tmp_path):
    want = [run.text for run in rows(tmp_path)]
    log = tmp_path / "rows.jsonl"
    log.write_text(
        "\n".join(log.read_text().splitlines()[:2]) + "\n"
    )  # before the second was noted
    (tmp_path / "chunk-00001.0123456789ab.part" / "000001").mkdir(parents=True)
    assert [run.text for run in rows(tmp_path)] == want
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "chunk-00000", "chunk-00001", "rows.jsonl"
    ]  # fmt: skip


def test_two_callers_of_one_folder(tmp_path):
    """The second is refused while the first is at work, and misses nothing afterwards."""
    tries = []

    def second(done, total):
        del done, total
        with pytest.raises(vi.ResultError, match="another process or thread"):
            rows(tmp_path)
        tries.append(0)

    lmm = tiny.fresh()
    vi.run_dataset(lmm, SAMPLES, folder=tmp_path, max_new_tokens=2, chunk=1, tick=second)
    assert len(tries) == len(SAMPLES) == len(rows(tmp_path))


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "in it", f"{tmp_path}/a\0b"):
        with pytest.raises(vi.ResultError, match="cannot be written"):
            rows(folder)
