"""The table of compressed contexts, against contexts asked one by one."""

import json

import numpy as np
import pytest

import vsink_interp as vi
from tests.logs import signed
from vsink_interp import experiments as ex, plot
from vsink_interp.metrics import read_answer

OPTIONS = {"keeps": (0.1, 1.0), "scores": ("attention", "random")}


@pytest.fixture(scope="module")
def quizzes():
    return ex.Quizzes.scenes(3, first_seed=20000)


@pytest.fixture(scope="module")
def found(sunk, quizzes):
    return ex.compressed_context(sunk, quizzes, **OPTIONS)


def right(texts, answers):
    return [read_answer(text, "mme") == answer for text, answer in zip(texts, answers, strict=True)]


def one_by_one(lmm, quizzes, spec):
    made, tokens = [], []
    for image, questions, answers in zip(
        quizzes.images, quizzes.questions, quizzes.answers, strict=True
    ):
        context = lmm.compress(image, quizzes.opening, spec, max_new_tokens=quizzes.described)
        made += right([context.ask(q, max_new_tokens=4).text for q in questions], answers)
        tokens.append(context.tokens_kept.total)
    return made, np.mean(tokens)


def test_scores_are_those_of_contexts_asked_one_by_one(sunk, quizzes, found):
    assert len(found.scores) == 2 + 4
    for score in found.scores[1:]:
        made, tokens = one_by_one(sunk, quizzes, score.spec)
        assert score.right.tolist() == made
        assert score.tokens == tokens
    assert len({tuple(score.right) for score in found.scores}) > 2, "all contexts answer alike"


def test_the_first_row_is_the_whole_prompt(sunk, quizzes, found):
    naive = found.scores[0]
    assert naive.spec is None
    made = []
    for image, questions, answers in zip(
        quizzes.images, quizzes.questions, quizzes.answers, strict=True
    ):
        texts = [sunk.generate(image, q, max_new_tokens=4).text for q in questions]
        made += right(texts, answers)
    assert naive.right.tolist() == made
    assert naive.accuracy == np.mean(made)
    assert naive.tokens > 64


def test_the_table_reads_like_the_papers(quizzes, found):
    lines = str(found).splitlines()
    assert lines[0].split() == ["ACC", "ACC+", "tokens"]
    assert [line.split("  ")[0] for line in lines[1:4]] == [
        "naive", "query only", "query + K=10% by attention",
    ]  # fmt: skip
    score = found.scores[2]
    plus = [score.right[[p == i for p in found.image]].all() for i in range(len(quizzes))]
    assert found.plus(score) == np.mean(plus)
    assert f"{score.tokens:.1f}" in lines[3]


def test_a_measurement_goes_on_from_its_log(sunk, quizzes, found, tmp_path):
    rows = tmp_path / "rows.jsonl"
    again = ex.compressed_context(sunk, quizzes, log=rows, **OPTIONS)
    assert str(again) == str(found)
    lines = rows.read_text().splitlines()
    assert len(lines) == 1 + len(quizzes)
    forged = json.loads(lines[1])
    forged["answers"]["answers"][1] = list(quizzes.answers[0])
    rows.write_text("\n".join([lines[0], signed(forged), lines[2][:30]]))  # cut in the middle
    ticks = []
    resumed = ex.compressed_context(
        sunk, quizzes, log=rows, tick=lambda *done: ticks.append(done), **OPTIONS
    )
    assert ticks == [(1, 3), (2, 3), (3, 3)]
    first = [p == 0 for p in found.image]
    assert resumed.scores[1].right[first].all()
    np.testing.assert_array_equal(resumed.scores[3].right, found.scores[3].right)
    assert len([line for line in rows.read_text().splitlines() if line.endswith("}")]) == 4
    with pytest.raises(vi.ResultError, match="another measurement"):
        ex.compressed_context(sunk, quizzes, log=rows, keeps=(0.5,))


def test_few_well_chosen_tokens_answer_better_than_random_ones(sunk):
    """Kaduri et al.'s finding on the toy LMM: a tenth of the image tokens does most of the work."""
    found = ex.compressed_context(
        sunk, ex.Quizzes.scenes(10, 20000), keeps=(0.1,), scores=("contribution", "random")
    )
    naive, query, best, random = (score.accuracy for score in found.scores)
    assert [s.name for s in found.scores[2:]] == [
        "query + K=10% by contribution", "query + K=10% by random",
    ]  # fmt: skip
    assert best > random + 0.15
    assert best > query + 0.15
    assert naive >= best


def test_the_best_tokens_alone_are_a_row_too(sunk, quizzes):
    found = ex.compressed_context(
        sunk, quizzes, keeps=(0.1,), scores=("attention",), strategies=("qs", "s")
    )
    assert found.scores[3].name == "K=10% by attention only"
    assert found.scores[3].tokens == found.scores[2].tokens - found.scores[1].tokens
    made, _ = one_by_one(sunk, quizzes, vi.CompressedContext(0.1, strategy="s"))
    assert found.scores[3].right.tolist() == made


def test_curves_of_both_strategies_are_drawn(sunk, quizzes):
    found = ex.compressed_context(
        sunk, quizzes, keeps=(0.1, 0.5), scores=("attention",), strategies=("s", "qs")
    )
    lines = {line.get_label(): line for line in plot.compressed_context(found).axes[0].lines}
    by_name = {score.name: score.accuracy for score in found.scores}
    for label, name in (("attention only", "{} only"), ("attention", "query + {}")):
        best = [name.format(f"K={keep}% by attention") for keep in (10, 50)]
        np.testing.assert_allclose(lines[label].get_ydata(), [by_name[one] for one in best])
    with pytest.raises(vi.ResultError, match="choose from: attention"):
        found.curve("random", "s")
    with pytest.raises(vi.ResultError, match="choose from: s, qs"):
        found.curve("attention", "q")


def test_a_curve_is_drawn(found):
    keep, accuracy = found.curve("random")
    assert keep.tolist() == [0.1, 1.0]
    assert accuracy.tolist() == [found.scores[4].accuracy, found.scores[5].accuracy]
    with pytest.raises(vi.ResultError, match="choose from: attention, random"):
        found.curve("contribution")
    axes = plot.compressed_context(found).axes[0]
    drawn = {
        line.get_label(): line.get_ydata() for line in axes.lines if line.get_marker() != "None"
    }
    assert drawn["random"] == pytest.approx(accuracy)
    assert set(drawn) == {"attention", "random"}
    assert any("naive" in text.get_text() for text in axes.texts)
    assert len(plot.png(plot.compressed_context(found))) > 5000


@pytest.mark.parametrize(
    ("questions", "answers", "word"),
    [
        ((("is it?",),), (("yes", "no"),), "as many answers"),
        (((),), ((),), "at least one question"),
        ((("is it?",),), (("maybe",),), "yes or no"),
    ],
)
def test_a_quiz_that_cannot_be_scored_is_refused(questions, answers, word):
    image = vi.toy.scene(0).image
    with pytest.raises(vi.InputError, match=word):
        ex.Quizzes((image,), questions, answers)
