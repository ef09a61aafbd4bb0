"""Cases from folders of the user's."""

import json

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


def test_thousands_of_images_are_opened_one_by_one(tmp_path, monkeypatch):
    pictures(tmp_path, 1, (2, 2))
    for i in range(1, 2000):
        (tmp_path / f"{i}.png").hardlink_to(tmp_path / "0.png")
    opened = []
    monkeypatch.setattr(
        "vsink_interp.reproduction.sources.as_image",
        lambda path: opened.append(path) or Image.open(path).convert("RGB"),
    )
    some = captions(Setup(tmp_path), 2000, 4)
    for count in (4, 8, 12):
        next(some)
        assert len(opened) == count
