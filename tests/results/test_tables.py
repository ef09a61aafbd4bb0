"""Parquet tables of many runs: read by pyarrow alone, and compared with the records one by one."""

import json

import pytest
import torch

import vsink_interp as vi
from tests import tiny

pandas = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

SAMPLES = [tiny.PROMPTS["one image"], tiny.PROMPTS["short"], (tiny.image(4), "count")]
MASS, EARLY = vi.probes.SegmentMass(), vi.probes.SegmentMass(layers="0")
LENS = vi.probes.LogitLens(rows="generated", layers="-1:")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    how = {"max_new_tokens": 2, "chunk": 2}
    return vi.run_dataset(tiny.lmm(), SAMPLES, MASS | EARLY | LENS, folder=folder, **how)


def test_every_number_stands_with_its_sample_and_labels(runs, tmp_path):
    folder = runs.to_parquet(tmp_path / "tables")
    names = json.loads((folder / "probes.json").read_text())
    assert sorted(names) == ["LogitLens", "LogitLens.word", "SegmentMass", "SegmentMass-2"]
    for name, probe in names.items():
        table = pandas.read_parquet(folder / name)
        assert {path.name for path in (folder / name).iterdir()} == {"chunk=00000", "chunk=00001"}
        for sample, run in enumerate(runs):
            compare(table[table["sample"] == sample], run.records[probe])


def compare(table, record):
    """A table of one run against its record: how many numbers, and every tenth of them."""
    counts = True if record.counts is None else record.counts
    assert len(table) == int((torch.ones(record.values.shape) * counts).sum()) > 0
    for row in table.iloc[::10].to_dict("records"):
        labels = {axis: 0 if axis == "batch" else row[axis] for axis in record.axes}
        found = record.at(**labels)
        assert row["value"] == pytest.approx(float(found.values))
        assert row.get("word") == (None if record.vocabulary is None else found.words.item())


def test_answers_have_a_row_each(runs, tmp_path):
    table = pandas.read_parquet(runs.to_parquet(tmp_path) / "answers")
    assert list(table["sample"]) == [0, 1, 2]
    assert list(table["text"]) == [run.text for run in runs]
    assert list(table["new_tokens"]) == [2, 2, 2]


def test_axes_are_averaged_first(runs, tmp_path):
    folder = runs.to_parquet(tmp_path, mean=["head", "query"])
    table = pandas.read_parquet(folder / "SegmentMass")
    assert {*table.columns} == {"sample", "layer", "segment", "value", "chunk"}
    (value,) = table.query("sample == 1 and layer == 2 and segment == 'image'")["value"]
    record = [*runs][1][MASS]
    found = record.masked[2, 0, :, :, record.labels("segment").index("image")]
    assert value == pytest.approx(float(found.nanmean()), rel=1e-6)


def test_what_cannot_be_read_as_it_should_is_refused(runs, tmp_path):
    for axis, why in (("batch", "tells the samples apart"), ("heads", "did you mean 'head'")):
        with pytest.raises(vi.ResultError, match=why):
            runs.to_parquet(tmp_path / axis, mean=[axis])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "file").touch()
    with pytest.raises(vi.ResultError, match="holds something already"):
        runs.to_parquet(tmp_path / "b")
