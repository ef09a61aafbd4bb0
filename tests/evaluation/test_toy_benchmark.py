"""The toy benchmark is true of its scenes, and reads back from the real file formats."""

import re
from collections import Counter

import numpy as np
import pytest

from vsink_interp import InputError
from vsink_interp.evaluation import Chair, Mme, Pope, load_tasks, toy_benchmark as toy
from vsink_interp.toy.hard_scenes import hard_scene

SHOWN = toy.scenes(12)


def test_scenes_follow_from_their_seed_and_masks_are_exact():
    again = hard_scene(3)
    assert np.array_equal(np.asarray(again.image), np.asarray(SHOWN[3].image))
    for one in SHOWN:
        assert 4 <= len(one.objects) <= 5
        assert one.masks.any((1, 2)).all(), "every object shows"
        assert not (one.masks.sum(0) > 1).any(), "no pixel belongs to two"


def test_another_first_scene_asks_about_others(tmp_path):
    (task,) = load_tasks(["chair"], limit=2, first_seed=7)
    shown = [np.asarray(hard_scene(seed).image) for seed in (7, 8)]
    assert all(map(np.array_equal, (np.asarray(one.image) for one in task.questions), shown))
    with pytest.raises(InputError, match="of the toy benchmark"):
        load_tasks(["chair"], tmp_path, first_seed=7)


def test_pope_asks_three_present_and_three_absent_objects():
    task = toy.pope(SHOWN)
    names = {f"{one.seed:06d}.png": {thing.name for thing in one.objects} for one in SHOWN}
    for question in task.questions:
        (name,) = re.findall(r"is there an? (\w+ \w+) in the image\?", question.prompt)
        assert question.truth == ("yes" if name in names[question.about] else "no")
        if question.split == "adversarial" and question.truth == "no":
            color, shape = name.split()
            assert any(color in other or shape in other for other in names[question.about])
    counts = Counter((one.split, one.about, one.truth) for one in task.questions)
    assert set(counts.values()) == {3}
    assert len(task.questions) == 3 * 12 * 6
    assert len({one.id for one in task.questions}) == len(task.questions)


def test_mme_pairs_are_affirmed_once_and_true():
    task = toy.mme(SHOWN)
    pairs = Counter((one.split, one.about) for one in task.questions)
    assert set(pairs.values()) == {2}
    counted = [one for one in task.questions if one.split == "count"]
    words = dict(zip(("three", "four", "five", "six"), range(3, 7), strict=True))
    for question in counted:
        said = words[question.prompt.split()[2]]
        right = said == len(SHOWN[int(question.about)].objects)
        assert question.truth == ("yes" if right else "no")


def test_the_files_of_the_real_benchmarks_read_back(tmp_path):
    toy.write(tmp_path, SHOWN)
    for name, cls in (("pope", Pope), ("mme", Mme), ("chair", Chair)):
        ours, theirs = getattr(toy, name)(SHOWN), cls.read_folder(tmp_path)
        told = [
            Counter((one.prompt, one.truth, one.split, one.about) for one in task.questions)
            for task in (ours, theirs)
        ]
        if name == "chair":  # other words are asked of photographs
            told = [Counter((key[1:]) for key in part) for part in told]
        assert told[0] == told[1]
        assert all(one.image.is_file() for one in theirs.questions)


def test_captions_count_as_truth_of_coco(tmp_path):
    """Of an image without instances, what its captions name is there."""
    toy.write(tmp_path, SHOWN[:1])
    path = tmp_path / "annotations" / "captions_val2014.json"
    path.write_text(
        '{"images": [], "annotations": [{"image_id": 0, "caption": "a pink circle, a red cross"}]}'
    )
    (question,) = Chair.read_folder(tmp_path).questions
    assert "red cross" in question.truth


@pytest.mark.parametrize("cls", [Pope, Mme, Chair])
def test_an_empty_folder_says_what_is_expected(cls, tmp_path):
    with pytest.raises(InputError, match=r"expected (pope/|mme/|annotations/)"):
        cls.read_folder(tmp_path)


def test_lines_that_are_no_questions(tmp_path):
    toy.write(tmp_path, SHOWN[:1])
    (tmp_path / "pope" / "coco_pope_random.json").write_text('{"image": "x.png"}\n')
    with pytest.raises(InputError, match=r"line 1 of .*needs image, text and label"):
        Pope.read_folder(tmp_path)
    row = '{"image": "000000.png", "text": "is it\u2028so?", "label": "perhaps"}'
    (tmp_path / "pope" / "coco_pope_random.json").write_text(row + "\n")
    with pytest.raises(InputError, match="a label is yes or no; got 'perhaps'"):
        Pope.read_folder(tmp_path)
    next((tmp_path / "mme" / "count").glob("*.txt")).write_text("is it so?\tperhaps\n")
    with pytest.raises(InputError, match="a tab, and Yes or No"):
        Mme.read_folder(tmp_path)


def test_a_limit_takes_of_every_split_and_keeps_pairs():
    task = toy.mme(SHOWN).limited(16)
    assert Counter(one.split for one in task.questions) == dict.fromkeys(
        ("existence", "count", "position", "color"), 4
    )
    assert len(toy.pope(SHOWN).limited(10).questions) == 10
    assert len(toy.chair(SHOWN).limited(5).questions) == 5
    assert toy.chair(SHOWN).limited(5).words is toy.WORDS
    with pytest.raises(InputError, match="at least one"):
        task.limited(0)
