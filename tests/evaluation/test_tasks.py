"""MMVP, CV-Bench, MMHal-Bench and VQA in the files that they come in, scored by hand."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import vsink_interp as vi
from vsink_interp.evaluation import OFF, TaskAnswers, load_tasks
from vsink_interp.metrics import LexicalJudge, ObjectWords

PIXELS = Image.fromarray(np.zeros((8, 8, 3), np.uint8))


def image(folder, name):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    PIXELS.save(path)


def scored(task, off, on):
    """The rows of two arms, by split and metric."""
    found = TaskAnswers(task, {OFF: tuple(off), "on": tuple(on)})
    return {(row.split, row.metric): row for row in found.rows()}


@pytest.fixture
def mmvp(tmp_path):
    """As in the repository of the data set, the typing error of its first column included."""
    folder = tmp_path / "mmvp"
    rows = [
        ["lndex", "Question", "Options", "Correct Answer"],
        [1, "Is the door open?", "(a) Open (b) Closed", "(a)"],
        [2, "Is the door open?", "(a) Open (b) Closed", "(b)"],
        [3, "How many wheels, one or two?", "(a) one (b) two", "(a)"],
        [4, "How many wheels, one or two?", "(a) one (b) two", "(b)"],
    ]
    folder.mkdir()
    with (folder / "Questions.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    for number in range(1, 5):
        image(folder, f"MMVP Images/{number}.jpg")
    return tmp_path


def test_mmvp_counts_pairs(mmvp):
    """Off: both of the first pair, one of the second; on: one of each."""
    (task,) = load_tasks(["mmvp"], mmvp)
    assert [one.about for one in task.questions] == ["pair 1", "pair 1", "pair 2", "pair 2"]
    assert task.questions[1].truth == ("b", "Open", "Closed")
    assert task.questions[0].image.name == "1.jpg"
    assert task.questions[0].prompt.startswith("Is the door open? (a) Open (b) Closed\n")
    rows = scored(task, ["A", "closed", "one", "(a)"], ["A", "A", "B.", "B"])
    assert (rows["pairs", "pairs"].off, rows["pairs", "pairs"].on) == (0.5, 0.0)
    assert (rows["pairs", "accuracy"].off, rows["pairs", "accuracy"].on) == (0.75, 0.5)
    assert (rows["pairs", "pairs"].won, rows["pairs", "pairs"].lost) == (1, 2)
    assert len(task.limited(1).questions) == 2


def test_a_pair_needs_two(mmvp):
    path = mmvp / "mmvp" / "Questions.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    with pytest.raises(vi.InputError, match=r"pair 2 alone"):
        load_tasks(["mmvp"], mmvp)
    path.write_text("1,Is it?,(a) yes,(a)")
    with pytest.raises(vi.InputError, match=r"\(a\) Open \(b\) Closed"):
        load_tasks(["mmvp"], mmvp)


@pytest.fixture
def cv_bench(tmp_path):
    folder = tmp_path / "cv-bench"
    folder.mkdir()

    def line(number, kind, source, choices, answer):
        name = f"{kind}/{number}.png"
        image(folder, f"img/{name}")
        letters = " ".join(
            f"({letter}) {text}" for letter, text in zip("ABCDEF", choices, strict=False)
        )
        asked = {"prompt": f"Which? {letters}", "choices": choices, "answer": f"({answer})"}
        return json.dumps(
            {
                "idx": number,
                "type": kind,
                "task": "Count",
                "source": source,
                "filename": name,
                **asked,
            }
        )

    flat = [
        line(0, "2D", "ADE20K", ["3", "2", "5"], "C"),
        line(1, "2D", "COCO", ["left", "right"], "A"),
        line(2, "2D", "COCO", ["left", "right"], "B"),
    ]
    deep = [
        line(3, "3D", "Omni3D", ["table", "lamp"], "B"),
        line(4, "3D", "Omni3D", ["a", "b"], "A"),
    ]
    (folder / "test_2d.jsonl").write_text("\n".join(flat))
    (folder / "test_3d.jsonl").write_text("\n".join(deep) + "\n")
    return tmp_path


def test_cv_bench_weighs_its_sources(cv_bench):
    """Off: ADE20K 1, COCO 1/2, Omni3D 1/2: (1 + 1/2)/2 and 1/2, so 5/8. On: 0, 1, 1/2: 1/2."""
    (task,) = load_tasks(["cv-bench"], cv_bench)
    off, on = ["(C) 5", "A", "A", "B", "(B)"], ["A", "A", "B", "lamp", "a"]
    rows = scored(task, off, on)
    assert rows["COCO", "accuracy"].off == 0.5
    assert (rows["all", "accuracy"].off, rows["all", "accuracy"].on) == (0.625, 0.5)
    (cv_bench / "cv-bench" / "test_3d.jsonl").unlink()
    rows = scored(load_tasks(["cv-bench"], cv_bench)[0], off[:3], on[:3])
    assert rows["all", "accuracy"].off == 0.75


def test_cv_bench_s_lines_are_checked(cv_bench):
    path = cv_bench / "cv-bench" / "test_3d.jsonl"
    lines = path.read_text()
    path.write_text(lines.replace('"(B)"', '"(D)"'))
    with pytest.raises(vi.InputError, match=r"line 1 of .*'\(D\)' is none of"):
        load_tasks(["cv-bench"], cv_bench)
    path.write_text(lines.replace("choices", "chosen"))
    with pytest.raises(vi.InputError, match="it needs idx, type"):
        load_tasks(["cv-bench"], cv_bench)


class Ruler:
    """A judge that rates by the number in the answer."""

    @property
    def about(self):
        return {"judge": "ruler"}

    def compare(self, *_):
        raise AssertionError

    def rate(self, asked, answer):
        assert asked.contents == ("Dog", "Leash")
        return int(answer) if asked.reference == "Two." else 6 - int(answer)


@pytest.fixture
def mmhal(tmp_path):
    """Entries as in `response_template.json`, which name images by their address."""
    about = {"question_topic": "animal", "image_id": "f00d", "image_content": ["Dog", "Leash"]}
    rows = [
        {**about, "question_type": kind, "question": "How many?", "gt_answer": truth,
         "image_src": "https://farm1.staticflickr.com/12/3_o.jpg", "model_answer": ""}
        for kind, truth in (("counting", "Two."), ("relation", "Two."), ("counting", "One."))
    ]  # fmt: skip
    (tmp_path / "mmhal").mkdir()
    (tmp_path / "mmhal" / "response_template.json").write_text(json.dumps(rows))
    image(tmp_path, "mmhal/images/3_o.jpg")
    return tmp_path


def test_mmhal_is_rated_by_the_judge(mmhal):
    """Off 5, 2 and 6 - 2 = 4; on 6, 2, 6. Below 3 is false."""
    (task,) = load_tasks(["mmhal"], mmhal, judge=Ruler())
    rows = scored(task, "522", "620")
    assert rows["all", "rating"].off == pytest.approx(11 / 3)
    assert rows["all", "rating"].on == pytest.approx(14 / 3)
    assert rows["all", "false"].off == pytest.approx(1 / 3)
    assert rows["counting", "rating"].off == 4.5
    assert (rows["all", "rating"].won, rows["all", "rating"].lost) == (2, 0)
    assert task.rules["judge"] == "ruler"
    assert isinstance(load_tasks(["mmhal"], mmhal)[0].judge, LexicalJudge)


def test_a_judge_wants_answers_to_rate(mmhal):
    for data in (None, mmhal):
        with pytest.raises(vi.InputError, match="answers of mmhal alone, and the tasks are pope"):
            load_tasks(["pope"], data, judge=Ruler())
    path = mmhal / "mmhal" / "response_template.json"
    for content, said in (("[", "cannot be read"), ('["no entry"]', "is not MMHal-Bench's")):
        path.write_text(content)
        with pytest.raises(vi.InputError, match=said):
            load_tasks(["mmhal"], mmhal)


def test_another_judge_rates_the_answers_that_are_there(lmm, mmhal, tmp_path, monkeypatch):
    graphs, log = {"same": vi.EditGraph()}, tmp_path / "answers.jsonl"
    by_words = vi.evaluate(lmm, load_tasks(["mmhal"], mmhal), graphs, log=log)
    monkeypatch.setattr(vi.LMM, "generate", None)
    rated = LexicalJudge(ObjectWords({"blue circle": ()}))
    again = vi.evaluate(lmm, load_tasks(["mmhal"], mmhal, judge=rated), graphs, log=log)
    assert again.tasks["mmhal"].answers == by_words.tasks["mmhal"].answers
    objects = [one.to_json()["tasks"]["mmhal"]["rules"]["objects"] for one in (by_words, again)]
    assert objects == [None, 1]
    (task,) = load_tasks(["mmhal"], mmhal)
    with pytest.raises(vi.ResultError, match="differ in: tasks"):
        vi.evaluate(lmm, [replace(task, max_new_tokens=3)], graphs, log=log)


def test_mmhal_s_images_may_be_named_by_their_id(mmhal):
    folder = mmhal / "mmhal" / "images"
    (folder / "3_o.jpg").rename(folder / "f00d.jpg")
    assert load_tasks(["mmhal"], mmhal)[0].questions[0].image.name == "f00d.jpg"
    (folder / "f00d.jpg").unlink()
    with pytest.raises(vi.InputError, match=r"no image '3_o\.jpg'"):
        load_tasks(["mmhal"], mmhal)


def test_vqa_s_files(tmp_path):
    """Three of ten say two: an answer of theirs is 3 times 2/3 and 7 times 1: .9."""
    people = [{"answer": "2", "answer_id": n} for n in range(3)] + [{"answer": "3"}] * 7
    asked = {"image_id": 42, "question": "How many?", "question_id": 42000}
    known = {"question_id": 42000, "image_id": 42, "answers": people, "answer_type": "number"}
    (tmp_path / "vqa").mkdir()
    for kind, content in (("questions", [asked]), ("annotations", [known])):
        path = tmp_path / "vqa" / f"v2_OpenEnded_mscoco_val2014_{kind}.json"
        path.write_text(json.dumps({kind: content}))
    image(tmp_path, "val2014/COCO_val2014_000000000042.jpg")
    (task,) = load_tasks(["vqa"], tmp_path)
    rows = scored(task, ["Two."], ["four"])
    assert rows["number", "accuracy"].off == pytest.approx(0.9)
    assert rows["number", "accuracy"].on == 0
    assert TaskAnswers(task, {OFF: ("other",)}).unread(OFF) == 0  # a word as good as any
    path.write_text("{")
    with pytest.raises(vi.InputError, match=r"annotations\.json cannot be read"):
        load_tasks(["vqa"], tmp_path)


def test_the_toy_has_three_of_them():
    with pytest.raises(vi.InputError, match="mmvp is asked from its own files"):
        load_tasks(["pope", "mmvp"])


def test_pairs_are_asked_of_a_model(lmm, mmvp):
    """End to end; what the toy says to such a question is no letter."""
    blind = {"blind": vi.Knockout("image -> query generated")}
    found = vi.evaluate(lmm, load_tasks(["mmvp"], mmvp), blind)
    assert found.to_json()["tasks"]["mmvp"]["rules"]["answers are read by"] == "cambrian-mmvp"
    assert found.tasks["mmvp"].unread("off") == 4
    assert "mmvp: 4 answers of off name none of the options" in found.table()
