"""Rows of a data set, made here; made by a server: `remote/test_faults.py`."""

import pytest
from PIL import Image

import vsink_interp as vi
from tests import tiny

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
    with pytest.raises(vi.ResultError, match="theirs: sinks"):
        rows(tmp_path / "mass", graph=MASS, sinks=other)


def test_images_of_equal_bytes_and_another_shape_are_others(tmp_path):
    wide, high = (Image.new("RGB", size, "red") for size in ((20, 10), (10, 20)))
    rows(tmp_path, [(wide, "count")])
    with pytest.raises(vi.ResultError, match="theirs: digest"):
        rows(tmp_path, [(high, "count")])


@pytest.mark.parametrize("bad", [{"samples": []}, {"chunk": 0}, {"attempts": 0}])
def test_no_samples_chunk_or_attempts(bad, tmp_path):
    given = {"samples": SAMPLES, "folder": tmp_path} | bad
    with pytest.raises(vi.InputError, match="at least 1"):
        vi.run_dataset(tiny.lmm(), **given)
