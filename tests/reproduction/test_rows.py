"""What entries measure, against plain transformers in eager attention and a few lines of numpy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import vsink_interp as vi
from vsink_interp.experiments import ObjectMasks, naming_rows
from vsink_interp.model.progress import silent
from vsink_interp.reproduction import Measurements, Setup, find
from vsink_interp.reproduction.both.localising_heads import held_out
from vsink_interp.reproduction.outcomes import ahead
from vsink_interp.reproduction.paper_a import ablations
from vsink_interp.reproduction.paper_b.compressed import yes_f1
from vsink_interp.toy.language import DESCRIBE

LIMIT = 2
CLOSE = {"rtol": 2e-4, "atol": 2e-5}


@pytest.fixture(scope="module")
def eager():
    """The toy in eager attention, of its own weights."""
    from transformers import AutoModelForImageTextToText

    from vsink_interp.toy import weights_dir

    model = AutoModelForImageTextToText.from_pretrained(weights_dir, attn_implementation="eager")
    return model.eval()


@pytest.fixture(scope="module")
def told(lmm, eager):
    """Of each scene: ids with the answer, their segments, hidden states and patterns."""
    found = []
    for seed in range(LIMIT):
        encoding = lmm.encode(vi.toy.scene(seed).image, DESCRIBE)
        run = lmm.generate(encoding, max_new_tokens=40)
        whole = encoding.with_answer(run)
        with torch.no_grad():
            out = eager(**whole.inputs, output_attentions=True, output_hidden_states=True)
        found.append((run, out))
    return found


def rows(name, lmm):
    entry = find(name)
    return entry.measure(name, lmm, Setup(limit=LIMIT, quick=True, tick=silent)).rows


def picked(found, **labels):
    return [row["value"] for row in found if labels.items() <= row.items()]


def test_attention_by_type(lmm, told):
    found = rows("B.fig1", lmm)
    for case, (run, out) in enumerate(told):
        first = run.layout.prompt_length
        last = int(run.answered[0].sum()) + first
        for layer, pattern in enumerate(out.attentions):
            answer = pattern[0].mean(0)[first - 1 : last - 1]
            image = run.layout.mask("image")[0][: answer.shape[1]]
            want = answer[:, image].sum(1).mean()
            (got,) = picked(found, case=case, layer=layer, group="image", of="attention")
            np.testing.assert_allclose(got, want, **CLOSE)


@pytest.mark.parametrize("name", ["A.fig3b", "AB.knockout-sinks"])
def test_cases_without_a_control_are_left_out_and_told(name, lmm, monkeypatch):
    """Where more than half of the image tokens are sinks, as many others cannot be hidden."""
    drawn, phi = [vi.toy.scene(seed) for seed in range(4)], vi.probes.SinkValue("image")
    run = lmm.run([one.image for one in drawn], [DESCRIBE] * 4, phi)
    ranked = run[phi].values.sort(-1, descending=True).values
    most = ranked[..., 32].amax(0)  # below it no layer has more than 32 of 64
    tau = float(most.sort().values[1:3].mean())
    left_out = (most >= tau).nonzero().flatten().tolist()
    assert len(left_out) == 2
    monkeypatch.setattr(lmm, "sinks", replace(lmm.sinks, tau=tau))
    found = vi.reproduce(name, lmm, limit=4, quick=True, tick=silent)
    assert {*found.labels("case")} == {*range(4)} - {*left_out}
    named = ", ".join(map(str, left_out))
    why = f"left out: 2 of 4 cases ({named}): more sinks than other image tokens in some layer"
    assert found.table().endswith(why)
    assert "left out" not in vi.reproduce("A.fig8b", lmm, limit=1, quick=True, tick=silent).table()


def test_where_all_cases_are_left_out_the_verdict_says_so(lmm, monkeypatch):
    monkeypatch.setattr(lmm, "sinks", replace(lmm.sinks, tau=0.5))
    whys = {"A.fig3b": "no image has visual sinks, and as many", "AB.knockout-sinks": "no case has"}
    for name, why in whys.items():
        found = vi.reproduce(name, lmm, limit=2, quick=True, tick=silent)
        assert not found.rows
        assert "left out: 2 of 2 cases (0, 1): " in found.table()
        outcome = find(name).outcome(found)
        assert outcome.holds is None
        assert outcome.because.startswith(why)


def test_a_case_without_a_sink_is_left_out_and_told(lmm, monkeypatch):
    drawn, phi = [vi.toy.scene(seed) for seed in range(2)], vi.probes.SinkValue("image")
    run = lmm.run([one.image for one in drawn], [DESCRIBE] * 2, phi)
    highest = run[phi].values.amax((0, 2))
    monkeypatch.setattr(lmm, "sinks", replace(lmm.sinks, tau=float(highest.mean())))
    found = vi.reproduce("A.fig3b", lmm, limit=2, quick=True, tick=silent)
    assert found.table().endswith(
        f"left out: 1 of 2 cases ({int(highest.argmin())}): no visual sink"
    )


def test_a_benchmark_goes_on_where_a_control_cannot_be_whole(lmm, monkeypatch):
    monkeypatch.setattr(lmm, "sinks", replace(lmm.sinks, tau=1.5))
    found = vi.reproduce("A.fig3b-pope", lmm, limit=4, quick=True, tick=silent)
    assert {"visual sinks", "random image tokens"} < {*found.labels("arm")}


def phi_of(lmm, out, layer):
    x = out.hidden_states[layer][0].double()
    unit = x / x.pow(2).mean(-1, keepdim=True).sqrt()
    return unit[:, list(lmm.sinks.dims)].abs().amax(-1)


def test_sink_counts(lmm, told):
    found = rows("A.fig8b", lmm)
    for case, (run, out) in enumerate(told):
        image = run.layout.mask("image")[0]
        for layer in range(lmm.n_layers):
            phi = phi_of(lmm, out, layer)
            tau = lmm.sinks.tau
            want = int((phi[image[: len(phi)]] >= tau).sum())
            assert picked(found, case=case, layer=layer, own=1) == [want]


def test_phi_along_the_prompt(lmm, told):
    found = rows("A.fig8a", lmm)
    for case, (run, out) in enumerate(told):
        for layer in {row["layer"] for row in found}:
            want = phi_of(lmm, out, layer)[: run.layout.prompt_length]
            np.testing.assert_allclose(picked(found, case=case, layer=layer), want, **CLOSE)


def test_sinks_against_masks(lmm, told):
    found = rows("A.table6", lmm)
    for case, (run, out) in enumerate(told):
        covered = vi.toy.scene(case).masks.any(0).reshape(8, 8, 8, 8).mean((1, 3)).ravel()
        free = covered < 0.1
        image = run.layout.mask("image")[0]
        for layer in range(lmm.n_layers):
            phi = phi_of(lmm, out, layer)
            sink = (phi[image[: len(phi)]] >= lmm.sinks.tau).numpy()
            want = [free[sink].mean()] if sink.any() else []
            assert picked(found, case=case, layer=layer, tokens="visual sinks") == want
            if sink.any():
                (got,) = picked(found, case=case, layer=layer, tokens="all image tokens")
                assert got == free.mean()


def test_maps_by_layer(lmm, told):
    found = rows("B.fig4", lmm)
    for case, (run, out) in enumerate(told):
        first, count = run.layout.prompt_length, int(run.answered[0].sum())
        for layer, pattern in enumerate(out.attentions):
            answer = pattern[0].mean(0)[first - 1 : first + count - 1]
            image = run.layout.mask("image")[0][: answer.shape[1]]
            got = picked(found, case=case, layer=layer)
            np.testing.assert_allclose(got, answer[:, image].mean(0), **CLOSE)
    places = [(row["left"], row["top"]) for row in found if row["case"] == row["layer"] == 0]
    assert places == [(c / 8, r / 8) for r in range(8) for c in range(8)]


def test_words_without_sinks(lmm):
    found = rows("A.fig3d", lmm)
    for word in {row["word"] for row in found if row["case"] == 0}:
        whole, without = (
            np.array(picked(found, case=0, word=word, arm=arm))
            for arm in ("all image tokens", "without sinks")
        )
        sink = np.array(
            [
                r["sink"]
                for r in found
                if (r["case"], r["word"], r["arm"]) == (0, word, "without sinks")
            ],
            dtype=bool,
        )
        assert sink.any()
        assert (without[sink] == 0).all()
        np.testing.assert_allclose(without[~sink], whole[~sink] / whole[~sink].sum(), rtol=1e-5)


def test_heads_that_localise(lmm, told):
    """The attention to the image of every head, at the rows that name an object."""
    found = rows("AB.heads", lmm)
    for case, (run, out) in enumerate(told):
        objects = ObjectMasks.scenes(1, first_seed=case)
        first = run.layout.prompt_length
        image = run.layout.mask("image")[0]
        for number, thing in enumerate(objects):
            at = [first - 1 + row for row in naming_rows(lmm, run, thing.words)]
            label = f"{number}: {thing.words}"
            for layer, pattern in enumerate(out.attentions):
                want = pattern[0][:, at][:, :, image[: pattern.shape[-1]]].sum(-1).mean(-1)
                got = picked(found, case=case, object=label, layer=layer, of="image mass")
                np.testing.assert_allclose(got, want, **CLOSE)
    assert {0.0, 1.0} == {*picked(found, of="hit")}


def test_heads_are_tested_on_other_cases_than_they_were_found_on():
    """Head 1 hits on even cases and misses on odd ones; head 0 hits on odd ones alone."""
    found = [
        {"case": case, "layer": 0, "head": head, "of": of, "value": value}
        for case in range(4)
        for head in range(5)
        for of, value in (
            ("hit", float((head and case % 2 == 0 and head < 4) or (not head and case % 2))),
            ("entropy", 0.1 * head),
            ("image mass", 0.05 if head == 1 else 0.5),
        )
    ]
    shown = held_out(Measurements("AB.heads", tuple(found), {}))
    assert {row["case"] for row in shown.rows} == {1, 3}
    assert shown.mean(heads="highest hit rate") == 0
    assert shown.mean(heads="lowest entropy") == pytest.approx(1 / 3), "heads 0, 2 and 3"
    assert shown.mean(heads="all heads") == pytest.approx(1 / 5)


def test_f1_of_yes():
    truth, right = ["yes", "yes", "no", "no", "yes"], [True, False, True, False, True]
    said = np.array([(one == "yes") == ok for one, ok in zip(truth, right, strict=True)])
    true = np.array(truth) == "yes"
    precision, recall = (said & true).sum() / said.sum(), (said & true).sum() / true.sum()
    assert yes_f1(truth, right) == pytest.approx(2 * precision * recall / (precision + recall))


def test_the_largest_norms_are_sinks_and_a_description_is_counted(lmm, told):
    found = rows("B.selection", lmm)
    norm, drawn = (
        np.mean(picked(found, of="sinks among these", chosen=name))
        for name in ("norm, share", "random")
    )
    assert norm > drawn
    found = rows("B.table1", lmm)
    described = {"context": "describe to an LLM"}
    for case in range(LIMIT):
        run = lmm.generate(vi.toy.scene(case).image, DESCRIBE, max_new_tokens=48)
        words = lmm.tokenizer(run.text)["input_ids"]
        (count,) = picked(found, case=case, of="tokens", **described)
        (naive,) = picked(found, case=case, of="tokens", context="naive")
        assert len(words) <= count < naive
        cache = told[case][1].past_key_values
        held = sum(part.nbytes for one in cache.layers for part in (one.keys, one.values))
        for context in ("naive", "query only", "2 % only"):
            (tokens,) = picked(found, case=case, of="tokens", context=context)
            (size,) = picked(found, case=case, of="KV bytes", context=context)
            assert size == pytest.approx(tokens * held / cache.get_seq_length())
        assert picked(found, case=case, of="seconds to describe", **described)[0] > 0


@pytest.mark.parametrize(
    ("sink", "other", "at", "holds"),
    [(23.9, 14.1, 507, True), (17.0, 14.1, 507, False), (23.9, 5.0, 8, False)],
)
def test_sinks_look_like_the_first_token_where_phi_is_bounded(sink, other, at, holds):
    """The first is SmolLM2: phi is at most 24, and ordinary tokens have 14 of it."""
    peaks = {
        "first token": (23.8, 507),
        "visual sink": (sink, at),
        "other image token": (other, 507),
    }
    rows = tuple(
        {"case": 0, "token": token, "dim": dim, "sink": 1, "value": value if dim == place else 0.1}
        for token, (value, place) in peaks.items()
        for dim in (8, 507)
    )
    outcome = find("A.fig2").outcome(Measurements("A.fig2", rows, {}))
    assert outcome.holds is holds


def test_attention_goes_to_text_where_a_prompt_has_no_system_tokens(lmm):
    """The small LMM's has none. All text but the first token gets what the sinks lose."""
    arms = ablations.budget_target(lmm, Setup(quick=True))
    encoding = lmm.encode(vi.toy.scene(seed=0).image, "<image>describe the image", chat=False)
    assert "system" not in str(encoding.layout)
    moved = lmm.run(encoding, graph=arms["text"].graph).logits - lmm.run(encoding).logits
    assert moved.abs().amax() > 0.01


@pytest.mark.parametrize(
    ("others", "holds"),
    [
        ({"a": (0.3, 0.2, 0.4)}, True),
        ({"a": (0.3, 0.2, 0.4), "b": (0.45, 0.39, 0.55)}, None),
        ({"a": (0.3, 0.2, 0.4), "b": (0.9, 0.8, 1.0)}, False),
    ],
)
def test_an_arm_is_ahead_when_its_interval_lies_above_all_others(others, holds):
    arms = {"ours": (0.6, 0.5, 0.7), **others}
    rows = [
        {"task": "pope", "split": "all", "arm": arm, "of": "difference", "metric": "f1"}
        | dict(zip(("value", "low", "high"), told, strict=True))
        for arm, told in arms.items()
    ]
    found = Measurements("A.table4", tuple(rows), {})
    outcome = ahead(found, "ours", tuple(others), "f1")
    assert outcome.holds is holds
    assert "pope ours +0.6 [+0.5, +0.7]" in outcome.because
    assert ahead(found, "ours", tuple(others), "accuracy").holds is None
