"""Maps per answer word: against plain transformers, and before against after."""

import numpy as np
import torch

import vsink_interp as vi
from vsink_interp import experiments as ex

CLOSE = {"rtol": 2e-4, "atol": 2e-5}


def test_before_is_the_plain_pattern(sunk, cases, plain):
    maps = ex.word_maps(sunk, cases.images[0], cases.prompts[0], layers=(2, 3))
    run = sunk.generate(cases.images[0], cases.prompts[0], max_new_tokens=40)
    words = ex.answer_words(sunk, run)
    image = run.layout.mask("image")[0].nonzero().flatten()
    assert len(words) == len(maps.words) > 0
    for word, row in zip(words, maps.before, strict=True):
        positions = [run.answer_rows[i] for i in word.rows]
        expected = plain.pattern[[2, 3], 0][:, :, positions].mean((0, 1, 2))[image]
        np.testing.assert_allclose(row, expected, **CLOSE)
    sinks = (plain.phi[[2, 3], 0] >= sunk.sinks.tau).any(0)[image]
    np.testing.assert_array_equal(maps.sinks, sinks)


def test_var_takes_from_the_sinks(sunk, cases, answered, plain):
    sinks = (plain.phi[:-1, 0] >= sunk.sinks.tau) & answered.layout.mask("image")[0]
    layer = int(sinks.sum(1).argmax())
    edit = vi.VAR(p=1.0, rho=0.0, min_image_mass=0.0, layers=layer)
    maps = ex.word_maps(sunk, cases.images[0], cases.prompts[0], graph=edit, layers=(layer,))
    assert maps.sinks.any()
    assert maps.before[:, maps.sinks].sum() > 1e-3
    np.testing.assert_allclose(maps.after[:, maps.sinks], 0, atol=1e-7)


def test_without_an_edit_nothing_changes(sunk, cases):
    maps = ex.word_maps(sunk, cases.images[1], cases.prompts[1], graph=vi.EditGraph())
    np.testing.assert_allclose(maps.after, maps.before, rtol=1e-3, atol=1e-5)
    assert maps.answer == maps.edited_answer


def test_an_answer_fed_back_has_the_rows_of_generation(sunk, cases):
    """Under an edit too: prefill plus decode equal one pass."""
    probe = vi.probes.AttentionMaps()
    graph = vi.VAR(rho=0.0) | probe
    encoding = sunk.encode(cases.images[2], cases.prompts[2])
    run = sunk.generate(encoding, graph=graph, max_new_tokens=12)
    again = sunk.run(encoding.with_answer(run.generated), graph=graph)
    rows = run[probe].values.shape[2]
    torch.testing.assert_close(again[probe].values[:, :, :rows], run[probe].values)


def test_words_spell_the_answer(sunk, cases):
    run = sunk.generate(cases.images[0], cases.prompts[0], max_new_tokens=20)
    spoken = run.text.replace(",", " ").replace(".", " ").replace("?", " ").replace(":", " ")
    assert [word.text for word in ex.answer_words(sunk, run)] == spoken.split()


def test_other_blocks_are_the_same_maps(sunk, cases):
    maps = ex.word_maps(sunk, cases.images[0], cases.prompts[0], layers=(2, 3))
    other = ex.word_maps(sunk, cases.images[0], cases.prompts[0], layers=(5,))
    np.testing.assert_array_equal(maps.at(5).before, other.before)
    np.testing.assert_array_equal(maps.at(5).sinks, other.sinks)
    moved = [float(np.abs(one.after - one.before).sum()) for one in map(maps.at, range(8))]
    assert maps.most_changed == int(np.argmax(moved))
    assert moved[7] > 0 or maps.most_changed < 7
