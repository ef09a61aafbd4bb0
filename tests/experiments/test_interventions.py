"""Knockouts and ablations: against one-by-one generation, and what the log keeps."""

import json
from dataclasses import replace

import numpy as np
import pytest

import vsink_interp as vi
from tests.logs import signed
from vsink_interp import experiments as ex
from vsink_interp.toy.language import object_f1, parse_objects


def one_by_one(lmm, cases, graph=None):
    pairs = zip(cases.images, cases.prompts, strict=True)
    return [lmm.generate(p, q, graph, max_new_tokens=cases.max_new_tokens).text for p, q in pairs]


def true_f1(texts, cases):
    pairs = zip(texts, cases.truth, strict=True)
    return [object_f1(parse_objects(text), truth) for text, truth in pairs]


def test_sweep_is_generation_under_a_knockout(sunk, cases):
    steps = []
    found = ex.knockout_sweep(
        sunk, cases, layers=(0, 6), tick=lambda done, total: steps.append((done, total))
    )
    assert found.f1.shape == (3, 2, 3)
    assert steps == [(i, 7) for i in range(1, 8)]
    np.testing.assert_allclose(found.baseline, true_f1(one_by_one(sunk, cases), cases))
    for flow, layer in ((0, 1), (2, 0)):
        graph = vi.Knockout(found.flows[flow], f"{found.layers[layer]}:")
        expected = true_f1(one_by_one(sunk, cases, graph), cases)
        np.testing.assert_allclose(found.f1[flow, layer], expected)
    np.testing.assert_allclose(found.mean[1, 1], np.mean(found.f1[1, 1]))


def test_a_window_slides_and_ends_at_the_last_layer(sunk, cases):
    found = ex.knockout_sweep(sunk, cases, flows="image -> query generated", window=3)
    assert found.layers == tuple(range(sunk.n_layers - 2))
    assert (found.cut(0), found.cut(5)) == ("0:3", "5:8")
    graph = vi.Knockout("image -> query generated", [2, 3, 4])
    expected = true_f1(one_by_one(sunk, cases, graph), cases)
    np.testing.assert_allclose(found.f1[0, 2], expected)
    assert found.f1.std() > 0
    with pytest.raises(vi.InputError, match="last that fits begins at layer 5"):
        ex.knockout_sweep(sunk, cases, layers=(4, 6), window=3)
    with pytest.raises(vi.InputError, match="1 to that many"):
        ex.knockout_sweep(sunk, cases, window=9)


def test_a_window_that_fits_no_layer_with_a_pattern_is_refused(sunk, cases, monkeypatch):
    monkeypatch.setattr(type(sunk), "layers_with", lambda *_: [3, 7])
    with pytest.raises(vi.InputError, match=r"fits up to layer 1.*have one: 3, 7"):
        ex.knockout_sweep(sunk, cases, window=7)


def test_the_interval_is_that_of_the_paired_change():
    """Against a plain bootstrap: draws of cases, cut minus uncut of the same cases."""
    source = np.random.default_rng(3)
    baseline = source.random(40)
    f1 = np.clip(baseline - 0.2 + 0.1 * source.standard_normal((1, 2, 40)), 0, 1)
    found = ex.KnockoutSweep(f1, baseline, ("image -> query",), (0, 4), 8, "the truth", "random")
    drawn = source.integers(0, 40, (20_000, 40))
    for i in range(2):
        changes = (f1[0, i] - baseline)[drawn].mean(-1)
        want = np.percentile(changes, [2.5, 97.5])
        np.testing.assert_allclose(found.interval[0, i], want, atol=0.004)
    unpaired = f1[0, 0][drawn].mean(-1) - baseline[source.permutation(drawn)].mean(-1)
    assert np.ptp(np.percentile(unpaired, [2.5, 97.5])) > 2 * np.ptp(found.interval[0, 0])
    pytest.importorskip("pandas")
    table = found.to_pandas()
    assert list(table.columns) == "flow layers uncut f1 change low_95 high_95 cases".split()
    np.testing.assert_allclose(table[["low_95", "high_95"]], found.interval[0])
    np.testing.assert_allclose(table.change, (f1 - baseline).mean(-1)[0])
    one = ex.KnockoutSweep(f1[..., :1], baseline[:1], found.flows, (0, 4), 8, "the truth", "one")
    assert np.isnan(one.interval).all()


def test_without_truth_the_uncut_answer_is_the_reference(sunk, cases):
    blind = replace(cases, truth=None, read=vi.metrics.content_words)
    found = ex.knockout_sweep(sunk, blind, layers=(0,), flows=("image -> query generated",))
    np.testing.assert_allclose(found.baseline, 1)
    assert found.reference == "the uncut answer"
    assert found.f1.min() < 1


def test_a_sweep_goes_on_from_its_log(sunk, cases, tmp_path):
    rows, options = tmp_path / "rows.jsonl", {"flows": ("image -> query",), "layers": (0, 5)}
    whole = ex.knockout_sweep(sunk, cases, log=rows, **options)
    lines = rows.read_text().splitlines()
    assert len(lines) == 4
    # The second step is forged, the third cut off in the middle.
    forged = json.loads(lines[2]) | {
        "answers": [one.caption for one in map(vi.toy.scene, (5, 6, 7))]
    }
    rows.write_text("\n".join([*lines[:2], signed(forged), lines[3][:20]]))
    again = ex.knockout_sweep(sunk, cases, log=rows, **options)
    np.testing.assert_allclose(again.f1[0, 0], 1)
    np.testing.assert_allclose(again.f1[0, 1], whole.f1[0, 1])
    assert json.loads(rows.read_text().splitlines()[-1]) == json.loads(lines[3])


def test_a_log_of_another_sweep_is_refused(sunk, cases, tmp_path):
    rows = tmp_path / "rows.jsonl"
    ex.knockout_sweep(sunk, cases, log=rows, flows=("image -> query",), layers=(0,))
    other = ex.Cases.scenes(3, first_seed=6)
    with pytest.raises(vi.ResultError, match="another measurement"):
        ex.knockout_sweep(sunk, other, log=rows, flows=("image -> query",), layers=(0,))
    for text in ('{"format": 1, "sett', "[]\n"):
        rows.write_text(text)
        with pytest.raises(vi.ResultError, match="another measurement"):
            ex.knockout_sweep(sunk, cases, log=rows, flows=("image -> query",), layers=(0,))


def test_other_sinks_are_another_step_of_a_sweep(sunk, cases, tmp_path, monkeypatch):
    options = {"flows": ("sink & image -> query",), "layers": (0,), "log": tmp_path / "rows.jsonl"}
    ex.knockout_sweep(sunk, cases, **options)
    known = options["log"].read_text().splitlines()
    ex.knockout_sweep(sunk, cases, **options)
    assert options["log"].read_text().splitlines() == known
    monkeypatch.setattr(sunk, "sinks", replace(sunk.sinks, tau=sunk.sinks.tau / 2))
    ex.knockout_sweep(sunk, cases, **options)
    assert len(options["log"].read_text().splitlines()) == len(known) + 1


def test_query_only(sunk, cases):
    found = ex.query_only(sunk, cases)
    assert list(found.normal) == one_by_one(sunk, cases)
    graph = vi.Knockout("image -> generated")
    assert list(found.query_only) == one_by_one(sunk, cases, graph)
    np.testing.assert_allclose(found.f1_query_only, true_f1(found.query_only, cases))


def test_sink_ablation(sunk, cases):
    found = ex.sink_ablation(sunk, cases, seed=1, draws=2)
    assert found.f1.shape == (4, 3)
    for arm, graph in enumerate(found.graphs):
        expected = true_f1(one_by_one(sunk, cases, graph), cases)
        first = found.by_draw[arm - 2, 0] if arm >= 2 else found.f1[arm]
        np.testing.assert_allclose(first, expected)
    assert found.graphs[1] == vi.EditGraph(vi.HideKeys("sink & image"))
    other = vi.HideKeys("sink & image", control=2, redraw=False)
    np.testing.assert_allclose(found.by_draw[1, 1], true_f1(one_by_one(sunk, cases, other), cases))
    np.testing.assert_allclose(found.f1[2:], found.by_draw.mean(1))
    np.testing.assert_allclose(found.error, found.f1.std(1) / 3**0.5)


def test_sink_ablation_wants_visual_sinks(sunk, cases, monkeypatch):
    """Without one there is nothing to hide, and four equal arms would say nothing."""
    phi = vi.probes.SinkValue("image")
    counted = ex.sink_ablation(sunk, cases, draws=1).n_sinks
    for case, number in enumerate(counted):
        run = sunk.run(cases.images[case], cases.prompts[case], phi)
        assert number == int((run[phi].values >= sunk.sinks.tau).sum()) > 0
    monkeypatch.setattr(sunk, "sinks", replace(sunk.sinks, tau=11.0))
    with pytest.raises(vi.ResultError, match="nothing to hide"):
        ex.sink_ablation(sunk, cases)
    with pytest.raises(vi.InputError, match="one draw or more"):
        ex.sink_ablation(sunk, cases, draws=0)


def test_sink_ablation_leaves_out_what_has_no_control(sunk, cases, monkeypatch, tmp_path):
    """Cases with more sinks than other image tokens in a layer are in no arm; the others are."""
    phi = vi.probes.SinkValue("image")
    sinks = sunk.run(list(cases.images), list(cases.prompts), phi)[phi].values >= 2.1
    crowded = (sinks.sum(-1) > 32).any(0).tolist()
    assert crowded == [True, False, True], "of 64 image tokens"
    monkeypatch.setattr(sunk, "sinks", replace(sunk.sinks, tau=2.1))
    log, alone = tmp_path / "rows.jsonl", every_other(cases, first=1)
    found, again = (ex.sink_ablation(sunk, cases, draws=2, log=log) for _ in range(2))
    assert again.left_out == found.left_out
    np.testing.assert_array_equal(again.f1, found.f1)
    assert (found.left_out, found.cases) == ((0, 2), (1,))
    assert found.n_sinks.tolist() == [int(sinks[:, 1].sum())]
    for arm, graph in enumerate(found.graphs):
        whole = vi.EditGraph(*(replace(edit, partial=False) for edit in graph.nodes))
        first = found.by_draw[arm - 2, 0] if arm >= 2 else found.f1[arm]
        np.testing.assert_allclose(first, true_f1(one_by_one(sunk, alone, whole), alone))
    found.save(tmp_path)
    assert ex.SinkAblation.load(tmp_path).cases == (1,)
    assert "2 left out: more sinks" in found.plot().axes[0].get_xlabel()
    with pytest.raises(
        vi.ResultError, match=r"more sinks than other image tokens .* in 2 of 2, so"
    ):
        ex.sink_ablation(sunk, every_other(cases), draws=1)


def every_other(cases, first=0):
    images, prompts = cases.images[first::2], cases.prompts[first::2]
    return replace(cases, images=images, prompts=prompts, truth=cases.truth[first::2])


def test_cases_must_match():
    scene = vi.toy.scene(0)
    with pytest.raises(vi.InputError, match="2 images and 1 prompts"):
        ex.Cases((scene.image, scene.image), ("what?",))
    with pytest.raises(vi.InputError, match="no truth"):
        ex.Cases.of(scene.image, "what?").f1(["this"])


def test_depths():
    assert ex.map_layers(32) == (10, 11, 12)
    assert ex.middle_layers(8) == (2, 3, 4, 5, 6)
    assert ex.sweep_layers(8) == tuple(range(8))
    deep = ex.sweep_layers(80)
    assert len(deep) == 10
    assert (deep[0], deep[-1]) == (0, 79)
