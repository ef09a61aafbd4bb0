"""Cases from folders of the user's."""

import json
import weakref

import numpy as np
import pytest
from PIL import Image

import vsink_interp as vi
from vsink_interp.evaluation import toy_benchmark
from vsink_interp.reproduction import Setup
from vsink_interp.reproduction.sources import by_image, captions, objects, quizzes


def pictures(folder, count=3, size=(12, 10)):
    for i in range(count):
        Image.new("RGB", size, (20 * i, 0, 0)).save(folder / f"{i}.png")


def test_a_folder_of_images(tmp_path):
    pictures(tmp_path)
    parts = list(captions(Setup(tmp_path), 2, 1))
    assert [part.prompts for part in parts] == [("Describe the image.",)] * 2
    assert parts[1].images[0].getpixel((0, 0)) == (20, 0, 0)
    assert parts[0].truth is None


def test_a_table_of_prompts_and_answers(tmp_path):
    pictures(tmp_path)
    table = "image,prompt,answer\n1.png,what?,a red cup\n0.png,,\n"
    (tmp_path / "cases.csv").write_text(table)
    first, second = captions(Setup(tmp_path), 5, 1)
    assert first.prompts == ("what?",)
    assert first.truth == (("cup", "red"),)
    assert second.prompts == ("Describe the image.",)
    assert second.truth is None
    (tmp_path / "cases.csv").write_text("picture\n1.png\n")
    with pytest.raises(vi.InputError, match="line 2"):
        list(captions(Setup(tmp_path), 5, 1))


def test_coco_and_mme(tmp_path):
    toy_benchmark.write(tmp_path, toy_benchmark.scenes(2))
    (part,) = captions(Setup(tmp_path), 2, 4)
    assert len(part) == 2
    assert part.truth is not None
    (quiz, *_) = quizzes(Setup(tmp_path), 2, 1)
    assert len(quiz.questions[0]) == 2


def test_masks_beside_images(tmp_path):
    pictures(tmp_path, 2)
    folder = tmp_path / "0.masks"
    folder.mkdir()
    mask = np.zeros((10, 12), np.uint8)
    mask[2:5, 3:6] = 255
    Image.fromarray(mask).save(folder / "red cup.png")
    Image.fromarray(255 - mask).save(folder / "table.png")
    (tmp_path / "0.json").write_text(json.dumps({"prompt": "what is there?"}))
    (found,) = objects(Setup(tmp_path), 5, 4)
    assert [one.words for one in found] == ["red cup", "table"]
    assert (found[0].mask == (mask > 127)).all()
    assert found[0].prompt == "what is there?"
    assert [len(here) for here in by_image(found)] == [2]


@pytest.mark.parametrize("source", [captions, quizzes, objects])
def test_a_folder_without_any(tmp_path, source):
    with pytest.raises(vi.InputError):
        list(source(Setup(tmp_path), 2, 1))
    with pytest.raises(vi.InputError):
        list(source(Setup(tmp_path / "missing"), 2, 1))


def test_pope_is_a_quiz(tmp_path):
    pictures(tmp_path, 2)
    (tmp_path / "pope").mkdir()
    lines = [
        {"question_id": i, "image": f"{i // 2}.png", "text": f"Is there a {thing} in the image?",
         "label": label}
        for i, (thing, label) in enumerate(
            [("dog", "yes"), ("cat", "no"), ("bus", "no"), ("car", "yes")])
    ]  # fmt: skip
    text = "\n".join(map(json.dumps, lines))
    (tmp_path / "pope/coco_pope_random.json").write_text(text)
    first, second = quizzes(Setup(tmp_path), 5, 1)
    assert first.answers == (("yes", "no"),)
    assert second.images[0].getpixel((0, 0)) == (20, 0, 0)
    assert "bus" in second.questions[0][0]


def dataset(folder, rows, batch=2):
    """A dataset as `datasets.Dataset.save_to_disk` lays it out: Arrow streams, and their names."""
    pyarrow = pytest.importorskip("pyarrow")
    folder.mkdir()
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
    (folder / "state.json").write_text(json.dumps(state))
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as file:
        file.write_table(table, max_chunksize=batch)


def test_a_dataset_on_disk(tmp_path):
    pictures(tmp_path)
    rows = [
        {
            "image": {"bytes": (tmp_path / f"{i}.png").read_bytes(), "path": None},
            "question": "what?" if i else None,
            "answer": "a red cup" if i else None,
        }
        for i in range(3)
    ]
    dataset(tmp_path / "kept", rows)
    found = list(captions(Setup(tmp_path / "kept"), 5, 1))
    assert [one.prompts for one in found] == [("Describe the image.",), ("what?",), ("what?",)]
    assert found[2].images[0].getpixel((0, 0)) == (40, 0, 0)
    assert found[2].truth == (("cup", "red"),)
    (tmp_path / "both").mkdir()
    (tmp_path / "both/dataset_dict.json").write_text(json.dumps({"splits": ["test"]}))
    dataset(tmp_path / "both/test", rows[:1])
    assert len(list(captions(Setup(tmp_path / "both"), 5, 1))) == 1


def test_a_dataset_on_disk_without_images(tmp_path):
    dataset(tmp_path / "texts", [{"text": "no image"}])
    with pytest.raises(vi.InputError, match="no column 'image'; it has text"):
        list(captions(Setup(tmp_path / "texts"), 5, 1))
    dataset(tmp_path / "torn", [{"image": {"bytes": b"no image", "path": None}}])
    with pytest.raises(vi.InputError, match="row 0 holds no image that can be read"):
        list(captions(Setup(tmp_path / "torn"), 5, 1))
    (tmp_path / "torn/data-00000-of-00001.arrow").write_bytes(b"nothing")
    with pytest.raises(vi.InputError, match="no file of a dataset"):
        list(captions(Setup(tmp_path / "torn"), 5, 1))


def test_twenty_thousand_images_take_the_memory_of_a_few(tmp_path, monkeypatch):
    """Opened when they are reached, let go of afterwards; their paths are all that is held."""
    from vsink_interp.reproduction import sources

    pictures(tmp_path, 1, (2, 2))
    for i in range(1, 20_000):
        (tmp_path / f"{i}.png").hardlink_to(tmp_path / "0.png")
    alive, most, opened = set(), 0, 0
    as_image = sources.as_image

    def tracked(path):
        image = as_image(path)
        alive.add(id(image))
        weakref.finalize(image, alive.discard, id(image))
        return image

    monkeypatch.setattr(sources, "as_image", tracked)
    for part in captions(Setup(tmp_path), 20_000, 8):
        opened += len(part)
        most = max(most, len(alive))
    assert opened == 20_000
    assert most <= 16
