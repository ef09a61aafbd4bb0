"""CV-Bench as the Hub has it: parquet files with their images; `make lmms-eval` has pyarrow."""

import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

import vsink_interp as vi
from vsink_interp.evaluation import load_tasks

ROWS = 5


def pixels(number):
    return np.full((4, 6, 3), 40 * number, np.uint8)


def row(number):
    return {
        "idx": number,
        "type": "2D",
        "task": "Count",
        "question": "How many?",
        "choices": ["3", "2"],
        "answer": "(B)",
        "prompt": f"How many? {number} (A) 3 (B) 2",
        "filename": f"img/2D/{number:06d}.png",
        "source": "COCO",
    }


def written(path, rows, images):
    """A file of several row groups, its images in the form in which `datasets` writes them."""
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path.parent.mkdir(exist_ok=True)
    table = arrow.table(
        {
            "image": arrow.array(images),
            **{name: [one[name] for one in rows] for name in rows[0]},
        }
    )
    parquet.write_table(table, path, row_group_size=2)
    return path


def png(number):
    file = io.BytesIO()
    Image.fromarray(pixels(number)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def test_questions_and_images_are_those_of_the_file(tmp_path):
    rows = [row(number) for number in range(ROWS)]
    path = written(tmp_path / "cv-bench/test_2d.parquet", rows, [png(i) for i in range(ROWS)])
    (task,) = load_tasks(["cv-bench"], tmp_path)
    assert [one.prompt.split("\n")[0] for one in task.questions] == [one["prompt"] for one in rows]
    assert {one.truth for one in task.questions} == {("b", "3", "2")}
    for number in (4, 0, 1, 3, 2, 0):
        assert np.array_equal(np.asarray(task.questions[number].shown()), pixels(number))
    lines = path.with_suffix(".jsonl")
    lines.write_text("".join(json.dumps(one) + "\n" for one in rows[:1]))
    assert len(load_tasks(["cv-bench"], tmp_path)[0].questions) == ROWS
    (path.parent / "img" / "2D").mkdir(parents=True)
    Image.fromarray(pixels(3)).save(path.parent / rows[0]["filename"])
    (task,) = load_tasks(["cv-bench"], tmp_path)
    assert [one.image.name for one in task.questions] == ["000000.png"]


def test_it_is_asked_as_a_file_of_images_is(lmm, tmp_path):
    """The toy's answers to scenes out of a parquet file are those to the scenes."""
    scenes = [vi.toy.scene(seed=number).image for number in range(3)]
    files = []
    for scene in scenes:
        file = io.BytesIO()
        scene.save(file, "PNG")
        files.append({"bytes": file.getvalue(), "path": None})
    written(tmp_path / "cv-bench/test_3d.parquet", [row(n) for n in range(3)], files)
    (task,) = load_tasks(["cv-bench"], tmp_path)
    found = vi.evaluate(lmm, [task], {"same": vi.EditGraph()}, batch_size=3)
    said = lmm.generate(scenes, [one.prompt for one in task.questions], max_new_tokens=16).text
    assert found.tasks["cv-bench"].answers["off"] == tuple(said)


def test_what_is_wrong_with_a_file_is_said(tmp_path):
    path = written(tmp_path / "cv-bench/test_2d.parquet", [row(0)], [{"bytes": b"no", "path": "x"}])
    with pytest.raises(vi.InputError, match=r"row 0 of .* no image"):
        load_tasks(["cv-bench"], tmp_path)[0].questions[0].shown()
    written(path, [{**row(0), "answer": "(C)"}], [png(0)])
    with pytest.raises(vi.InputError, match=r"row 0 of .*'\(C\)' is none of"):
        load_tasks(["cv-bench"], tmp_path)
    path.write_bytes(b"no parquet")
    with pytest.raises(vi.InputError, match="no parquet file"):
        load_tasks(["cv-bench"], tmp_path)


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "test_2d.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(vi.CapabilityError, match=r"vsink-interp\[data\]"):
        load_tasks(["cv-bench"], tmp_path)
