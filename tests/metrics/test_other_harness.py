"""Our scorers against lmms-eval's own functions; `make lmms-eval` runs this in its environment."""

import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from vsink_interp.evaluation import OFF, CvBench, Question, TaskAnswers
from vsink_interp.metrics import (
    MmeAnswer,
    ObjectWords,
    group_accuracy,
    read_answer,
    read_choice,
    score_chair,
    score_mme,
    score_pope,
)

pytest.importorskip("lmms_eval")

SAID = (
    "yes", "Yes", "no", "No", "YES.", "no.", " yes ", "Yes, it is.", "No, there is not.", "y", "n",
    "N.", "the answer is no", "I know", "nothing", "not yes", "", "maybe", "it's yes", "a no",
)  # fmt: skip


def drawn(count, seed=0):
    rng = random.Random(seed)
    return [rng.choice(SAID) for _ in range(count)], rng.choices(["yes", "no"], k=count)


def test_pope():
    from lmms_eval.tasks.pope import utils

    answers, labels = drawn(400)
    rows = [
        utils.pope_process_results({"question_id": i, "answer": label}, [text])["pope_accuracy"]
        for i, (text, label) in enumerate(zip(answers, labels, strict=True))
    ]
    ours = score_pope(answers, labels, "lmms-eval-pope")
    assert 0.1 < ours.accuracy < 0.9
    assert ours.accuracy == pytest.approx(utils.pope_aggregate_accuracy(rows))
    assert ours.precision == pytest.approx(utils.pope_aggregate_precision(rows))
    assert ours.recall == pytest.approx(utils.pope_aggregate_recall(rows))
    assert ours.f1 == pytest.approx(utils.pope_aggregate_f1_score(rows))
    assert ours.yes_ratio == pytest.approx(utils.pope_aggregate_yes_ratio(rows))


def test_mme():
    from lmms_eval.tasks.mme import utils

    assert [read_answer(text, "lmms-eval-mme") for text in SAID] == [
        utils.parse_pred_ans(text) for text in SAID
    ]
    answers, labels = drawn(400)
    ours, theirs = [], []
    for i, (text, label) in enumerate(zip(answers, labels, strict=True)):
        subtask = ("existence", "OCR")[i // 2 % 2]
        ours.append(MmeAnswer(subtask, str(i // 2), text, label))
        doc = {"question_id": str(i // 2), "category": subtask, "answer": label.capitalize()}
        theirs.append(utils.mme_process_results(doc, [text])["mme_perception_score"])
    total = score_mme(ours, "lmms-eval-mme").total()
    assert 20 < total < 380
    assert total == pytest.approx(utils.mme_aggregate_results(theirs))


def test_chair(monkeypatch):
    """lmms-eval's word lists, double words and sums; the words are singular, so lemmas are them."""
    from lmms_eval.tasks.coco_cap_chair import utils

    monkeypatch.setattr(utils.nltk, "word_tokenize", str.split)
    monkeypatch.setattr(utils.nltk, "pos_tag", lambda words: [(word, "NN") for word in words])
    same = type("Same", (), {"lemmatize": lambda self, word, pos: word})  # noqa: ARG005
    monkeypatch.setattr(utils, "WordNetLemmatizer", same)
    kinds = SimpleNamespace(NOUN="n", ADJ="a", VERB="v", ADV="r")  # the real one reads a corpus
    monkeypatch.setattr(utils, "wordnet", kinds)
    others: dict[str, tuple] = {}
    for word, name in utils.INVERSE_SYNONYM_DICT.items():
        others[name] = (*others.get(name, ()), *([word] if word != name else []))
    words = ObjectWords(others)
    pieces = (
        "a man", "a hot dog", "a dog", "a baby elephant", "a passenger train", "a wine glass",
        "a bow tie", "a traffic light", "a toilet seat", "a puppy", "a tree", "a kitten", "a boat",
        "a stop sign", "a home plate", "a laptop", "a teddy bear", "a sofa", "an adult horse",
    )  # fmt: skip
    rng = random.Random(0)
    captions = [" and ".join(rng.sample(pieces, 4)) for _ in range(200)]
    truths = [set(rng.sample(sorted(others), 12)) | {"person", "dog"} for _ in captions]
    rows = []
    for number, (caption, truth) in enumerate(zip(captions, truths, strict=True)):
        doc = {"question_id": number, "gt_object": sorted(truth)}
        rows.append(utils.coco_cap_chair_process_result(doc, [caption])["coco_cap_chair_i"])
        mentioned = [name for _, name in words.mentions(caption)]
        assert sorted(mentioned) == sorted(rows[-1]["pred"]), caption
    ours = score_chair(captions, truths, words)
    assert 0.1 < ours.instance < 0.9
    assert 100 * ours.instance == pytest.approx(
        utils.coco_cap_chair_aggregate_results_chair_i(rows)
    )
    assert 100 * ours.sentence == pytest.approx(
        utils.coco_cap_chair_aggregate_results_chair_s(rows)
    )
    assert 100 * ours.recall == pytest.approx(utils.coco_cap_chair_aggregate_results_recall(rows))


LETTERS = (
    "A", "B", "(b)", "b.", "The answer is A", "option (B)", "A. Open", "B) it", "both", "Closed",
    "", "I think a", "C", "(C) 5", "D. lamp", "answer is B.", "an apple", "no idea",
)  # fmt: skip


def test_mmvp():
    from lmms_eval.tasks.mmvp import utils

    rng, rows, right = random.Random(0), [], []
    for index in range(400):
        said, letter = rng.choice(LETTERS), rng.choice("ab")
        doc = {"Index": index + 1, "Correct Answer": f"({letter})"}
        rows.append(utils.mmvp_process_results(doc, [said])["mmvp_pair_accuracy"])
        read = read_choice(said, ("Open", "Closed"), "lmms-eval-mmvp")
        assert read == rows[-1]["pred_letter"].lower() or (read, rows[-1]["pred_letter"]) == (
            "other", "",
        ), said  # fmt: skip
        right.append(read == letter)
    pairs = group_accuracy(right, [index // 2 for index in range(400)])
    assert 0.05 < pairs < 0.9
    assert pairs == pytest.approx(utils.mmvp_aggregate_pair_results(rows))


def test_cv_bench():
    from lmms_eval.tasks.cv_bench import utils

    rng, rows, questions, said = random.Random(0), [], [], []
    for index in range(400):
        text, letter = rng.choice(LETTERS), rng.choice("abcd")
        source = ("ADE20K", "COCO", "Omni3D")[index * index % 7 % 3]
        doc = {
            "answer": f"({letter.upper()})",
            "idx": index,
            "type": "",
            "task": "",
            "source": source,
        }
        rows.append(utils.cv_bench_process_results(doc, [text])["cv_bench_acc"])
        truth = (letter, "w", "x", "y", "z")
        questions.append(Question(str(index), Path("x"), "?", truth, source, str(index)))
        said.append(text)
    right = [
        read_choice(text, one.truth[1:], "lmms-eval-cv-bench") == one.truth[0]
        for one, text in zip(questions, said, strict=True)
    ]
    assert right == [row["is_correct"] for row in rows]
    # The sum over sources, of answers that all rules read alike.
    plain = [text if text in ("A", "B", "(b)", "b.", "C") else "" for text in said]
    task = CvBench(tuple(questions), "here", 16)
    (row,) = (
        one
        for one in TaskAnswers(task, {OFF: tuple(plain), "on": tuple(plain)}).rows()
        if one.split == "all"
    )
    for theirs, one, text in zip(rows, questions, plain, strict=True):
        theirs["is_correct"] = task.right(one, text) == 1
    assert row.off == pytest.approx(utils.cv_bench_default_aggregate_results(rows))
    assert row.off > 0.05
