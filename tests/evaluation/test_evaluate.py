"""Off and on over the same questions: answers, scores, resumption."""

import json
import multiprocessing
import os
import signal
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import vsink_interp as vi
from vsink_interp.evaluation import (
    Pope,
    Question,
    evaluate,
    load_tasks,
    named_graph,
    toy_benchmark as toy,
)
from vsink_interp.metrics import MmeAnswer, score_chair, score_mme, score_pope
from vsink_interp.storage import logged

GRAPHS = {
    "blind": vi.Knockout("image -> query generated"),
    "var": vi.VAR(p=0.6, rho=0.5),
}
SHOWN = toy.scenes(8)


@pytest.fixture(scope="module")
def tasks():
    return [toy.pope(SHOWN[:4]), toy.mme(SHOWN[:4]), toy.chair(SHOWN)]


@pytest.fixture(scope="module")
def found(lmm, tasks):
    return evaluate(lmm, tasks, GRAPHS, batch_size=24)


def rows_of(found, **wanted):
    return [row for row in found.rows if all(getattr(row, name) == v for name, v in wanted.items())]


def test_answers_are_those_of_generate(lmm, tasks, found):
    task = tasks[0]
    for place in (0, 17, 50):
        one = task.questions[place]
        off = lmm.generate(one.image, one.prompt, max_new_tokens=2).text
        on = lmm.generate(one.image, one.prompt, GRAPHS["blind"], max_new_tokens=2).text
        assert found.tasks["pope"].answers["off"][place] == off
        assert found.tasks["pope"].answers["blind"][place] == on
    assert found.tasks["pope"].answers["off"] != found.tasks["pope"].answers["blind"]


def test_pope_s_table_is_its_score(tasks, found):
    answers = found.tasks["pope"].answers
    for split in ("random", "adversarial", "all"):
        at = [i for i, q in enumerate(tasks[0].questions) if split in ("all", q.split)]
        labels = [tasks[0].questions[i].truth for i in at]
        for arm, side in (("off", "off"), ("blind", "on")):
            want = score_pope([answers[arm][i] for i in at], labels)
            got = {
                row.metric: getattr(row, side)
                for row in rows_of(found, task="pope", split=split, graph="blind")
            }
            assert got["accuracy"] == pytest.approx(want.accuracy)
            assert got["precision"] == pytest.approx(want.precision)
            assert got["recall"] == pytest.approx(want.recall)
            assert got["f1"] == pytest.approx(want.f1)
            assert got["yes ratio"] == pytest.approx(want.yes_ratio)


def test_mme_s_table_is_its_score_and_adds_up(tasks, found):
    questions, texts = tasks[1].questions, found.tasks["mme"].answers["off"]
    want = score_mme(
        MmeAnswer(q.split, q.about, text, q.truth) for q, text in zip(questions, texts, strict=True)
    )
    for split in ("existence", "count"):
        (row,) = rows_of(found, task="mme", split=split, graph="var", metric="score")
        assert row.off == pytest.approx(want.subtasks[split].score)
    (row,) = rows_of(found, task="mme", split="all", graph="var")
    assert row.off == pytest.approx(want.total())


def test_chair_s_table_is_its_score(tasks, found):
    texts = found.tasks["chair"].answers["off"]
    want = score_chair(texts, [q.truth for q in tasks[2].questions], toy.WORDS)
    got = {r.metric: r.off for r in rows_of(found, task="chair", graph="var")}
    assert got["CHAIR_i"] == pytest.approx(want.instance)
    assert got["CHAIR_s"] == pytest.approx(want.sentence)
    assert got["recall"] == pytest.approx(want.recall)


def test_intervals_are_a_paired_bootstrap_over_images(tasks, found):
    """Written out for the accuracy of one split: images are drawn, not questions."""
    (row,) = rows_of(found, task="pope", split="random", graph="blind", metric="accuracy")
    gains: dict = {}
    answers = found.tasks["pope"].answers
    for question, off, on in zip(tasks[0].questions, answers["off"], answers["blind"], strict=True):
        if question.split == "random":
            gain = tasks[0].right(question, on) - tasks[0].right(question, off)
            gains.setdefault(question.about, []).append(gain)
    means = np.array([np.mean(gain) for gain in gains.values()])
    drawn = np.random.default_rng(5).integers(0, len(means), (20_000, len(means)))
    low, high = np.quantile(means[drawn].mean(1), [0.025, 0.975])
    assert row.difference == pytest.approx(means.mean())
    assert (row.low, row.high) == pytest.approx((low, high), abs=0.05)


def test_one_image_has_no_interval(lmm):
    found = evaluate(lmm, [toy.pope(SHOWN[:1])], {"blind": GRAPHS["blind"]})
    assert all(np.isnan(row.low) for row in rows_of(found, split="random"))
    assert json.loads(json.dumps(found.to_json()))["tasks"]["pope"]["scores"][0]["low"] is None


def test_flips_are_counted_by_direction(found):
    answers = found.tasks["pope"]
    flips = answers.flips("blind")
    (row,) = rows_of(found, task="pope", split="all", graph="blind", metric="accuracy")
    assert row.won == sum(flip[3] > 0 for flip in flips)
    assert row.lost == sum(flip[3] < 0 for flip in flips) > 0
    assert row.changed >= len(flips)


def test_a_stopped_evaluation_goes_on(lmm, tmp_path, monkeypatch):
    log, task = tmp_path / "answers.jsonl", toy.pope(SHOWN[:2])

    class StoppedError(Exception):
        pass

    def stop(done, total):
        assert total == 36
        if done == 20:
            raise StoppedError

    with pytest.raises(StoppedError):
        evaluate(lmm, [task], {"var": vi.VAR()}, log=log, batch_size=10, tick=stop)
    asked = []
    generate = vi.LMM.generate
    monkeypatch.setattr(
        vi.LMM,
        "generate",
        lambda self, encoding, **given: asked.append(encoding) or generate(self, encoding, **given),
    )
    again = evaluate(lmm, [task], {"var": vi.VAR()}, log=log, batch_size=10)
    assert len(asked) == 4  # two batches were left, off and on
    fresh = evaluate(lmm, [task], {"var": vi.VAR()}, batch_size=10)
    assert again.tasks["pope"].answers == fresh.tasks["pope"].answers
    with pytest.raises(vi.ResultError):
        evaluate(lmm, [task], {"var": vi.VAR(p=0.1)}, log=log, batch_size=10)


def killed(lmm, task, log):
    """Ask, and die by SIGKILL after two of four batches."""

    def die(done, *_):
        if done == 20:
            os.kill(os.getpid(), signal.SIGKILL)

    evaluate(lmm, [task], {"var": vi.VAR()}, log=log, batch_size=10, tick=die)


def test_a_killed_evaluation_goes_on(lmm, tmp_path):
    """As by `kill -9`, or a machine that goes down, with half a line in the file."""
    log, task = tmp_path / "answers.jsonl", toy.pope(SHOWN[:2])
    process = multiprocessing.get_context("fork").Process(target=killed, args=(lmm, task, log))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with log.open("a") as file:
        file.write('{"step": "pope: half a li')
    counted = []
    again = evaluate(
        lmm, [task], {"var": vi.VAR()}, log=log, batch_size=10, tick=lambda *n: counted.append(n)
    )
    assert len(logged(log)) == len(counted) == 4
    fresh = evaluate(lmm, [task], {"var": vi.VAR()}, batch_size=10)
    assert again.tasks["pope"].answers == fresh.tasks["pope"].answers


def resident():
    """The memory of this process in megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def test_ten_thousand_questions_at_constant_memory(lmm, tmp_path, monkeypatch):
    """Of everything but the model: questions from files, images, batches, the log, the answers."""
    image = tmp_path / "one.png"
    SHOWN[0].image.save(image)
    labels = ("yes", "no")
    questions = [
        Question(str(n), image, "is it?", labels[n % 2], "random", str(n // 6))
        for n in range(10_000)
    ]
    refs, most, memory = [], [], {}

    def encode(_, images, prompts):
        refs[:] = [ref for ref in refs if ref() is not None] + [weakref.ref(one) for one in images]
        most.append(len(refs))
        return prompts

    def generate(_, encoding, graph, **__):
        return SimpleNamespace(text=["yes" if len(graph) else "no"] * len(encoding))

    def tick(done, *_):
        memory[done] = resident()

    monkeypatch.setattr(vi.LMM, "encode", encode)
    monkeypatch.setattr(vi.LMM, "generate", generate)
    task, log = Pope(tuple(questions), "here", 2), tmp_path / "answers.jsonl"
    found = evaluate(lmm, [task], {"on": vi.VAR()}, log=log, batch_size=100, tick=tick)
    assert len(found.tasks["pope"].answers["on"]) == len(questions)
    assert max(most) <= 200, "images of earlier batches are kept"
    assert memory[10_000] - memory[2_000] < 20
    (row,) = rows_of(found, metric="accuracy")
    assert (row.off, row.on, row.won) == (0.5, 0.5, 5000)


def test_the_result_says_how_it_came_about(found):
    kept = json.loads(json.dumps(found.to_json()))
    assert set(kept["tasks"]) == {"pope", "mme", "chair"}
    assert kept["about"]["graphs"]["var"] == "EditGraph(" + repr(vi.VAR(p=0.6, rho=0.5)) + ")"
    assert kept["tasks"]["pope"]["rules"]["answers are read by"] == "pope"
    assert kept["about"]["weights"]
    assert "difference" in kept["tasks"]["mme"]["scores"][0]
    assert "blind" in found.table()
    frame = found.to_pandas()
    assert len(frame) == len(found.rows)
    assert "pope: 72" in repr(found)


def test_bad_input(lmm):
    task = toy.pope(SHOWN[:1])
    with pytest.raises(vi.InputError, match="at least one graph"):
        evaluate(lmm, [task], {})
    with pytest.raises(vi.InputError, match="under another name than 'off'"):
        evaluate(lmm, [task], {"off": vi.VAR()})
    with pytest.raises(vi.InputError, match="each task once"):
        evaluate(lmm, [task, task], {"var": vi.VAR()})
    with pytest.raises(vi.NotationError, match="pope"):
        load_tasks(["mmbench"])
    with pytest.raises(vi.InputError, match="no folder"):
        load_tasks(["pope"], "nowhere")
    with pytest.raises(vi.NotationError, match="var"):
        named_graph("vra")


def test_graphs_by_name_and_from_files(tmp_path):
    path = tmp_path / "mine.json"
    vi.EditGraph(vi.VAR(rho=0.8)).save(path)
    assert named_graph(str(path)) == ("mine", vi.EditGraph(vi.VAR(rho=0.8)))
    assert named_graph("var")[1] == vi.EditGraph(vi.VAR())
