"""The one form of results: every class, by what it makes of a few toy scenes."""

import inspect
import json
import multiprocessing
import os
import signal
from dataclasses import fields, is_dataclass, replace
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

import vsink_interp as vi
from vsink_interp import experiments as ex
from vsink_interp.model.progress import silent
from vsink_interp.results.result import Result
from vsink_interp.storage import merge_logs

FORK = multiprocessing.get_context("fork")
ASKED = "what color is the circle?"
CASES = ex.Cases.scenes(2, first_seed=5)
IMAGE = CASES.images[0]
PAIR = (vi.toy.scene(0).image, ASKED), (vi.toy.scene(4).image, ASKED)
QUIZZES = ex.Quizzes((IMAGE,), (("is there a circle?",),), (("yes",),), described=3)
OVER_CASES = {
    ex.Contributions: lambda lmm, **o: ex.contributions(lmm, BATCHED, layers=[3, 4], **o),
    ex.SinkValues: lambda lmm, **o: ex.sink_values(lmm, BATCHED, layers=[3, 4], **o),
    ex.SegmentShares: lambda lmm, **o: ex.segment_mass(lmm, BATCHED, layers=[3, 4], **o),
    vi.HeadRanking: lambda lmm, **o: ex.image_heads(lmm, BATCHED, rho=0.3, **o),
    ex.SinkAblation: lambda lmm, **o: ex.sink_ablation(lmm, BATCHED, draws=1, seed=3, **o),
    ex.QueryOnly: lambda lmm, **o: ex.query_only(lmm, BATCHED, **o),
    ex.PatchSweep: lambda lmm, **o: ex.patching(
        lmm, *PAIR, layers=[3], segments=["query", "image"], **o
    ),
    ex.AttributionSweep: lambda lmm, **o: ex.attribution_patching(
        lmm, *PAIR, by="segment", layers=[3], check=2, **o
    ),
    ex.KnockoutSweep: lambda lmm, **o: ex.knockout_sweep(
        lmm, BATCHED, flows=["image -> generated"], layers=[0, 4], **o
    ),
    ex.CompressedAnswers: lambda lmm, **o: ex.compressed_context(
        lmm, QUIZZES, keeps=(0.1,), scores=["attention"], **o
    ),
    ex.Localisation: lambda lmm, **o: ex.localisation(
        lmm, ex.ObjectMasks.scenes(1, first_seed=5), layers=[3, 4], max_new_tokens=20, **o
    ),
}
"""Those that write what they have found, and go on from it."""
OF_ONE_IMAGE = {
    ex.Spectrum: lambda lmm, **o: ex.spectrum(lmm, IMAGE, ASKED, **o),
    ex.TokenStrengths: lambda lmm, **o: ex.token_strengths(
        lmm, IMAGE, ASKED, max_new_tokens=2, **o
    ),
    ex.ImageLens: lambda lmm, **o: ex.image_lens(lmm, IMAGE, ASKED, layers=[3], top_k=2, **o),
    ex.WordLens: lambda lmm, **o: ex.word_lens(lmm, IMAGE, ASKED, ["red"], layers=[3], **o),
    ex.LogitParts: lambda lmm, **o: ex.logit_attribution(lmm, IMAGE, ASKED, "white", **o),
    ex.WordMaps: lambda lmm, **o: ex.word_maps(lmm, IMAGE, ASKED, max_new_tokens=3, **o),
    ex.ImageAttribution: lambda lmm, **o: ex.integrated_gradients(
        lmm, IMAGE, ASKED, "white", steps=2, **o
    ),
    ex.RegisterNeurons: lambda lmm, **o: ex.register_neurons(lmm, [IMAGE], norm=10.0, n=4, **o),
    ex.VisionSinks: lambda lmm, **o: ex.vision_sinks(lmm, IMAGE, ASKED, **o),
}
MADE = OVER_CASES | OF_ONE_IMAGE
BATCHED = ex.Cases(
    CASES.images, CASES.prompts, CASES.read, CASES.truth, batch_size=1, max_new_tokens=12
)
each = pytest.mark.parametrize("kind", MADE, ids=lambda kind: kind.__name__)
logged = pytest.mark.parametrize("kind", OVER_CASES, ids=lambda kind: kind.__name__)


@cache
def made(kind):
    return MADE[kind](toy(), tick=silent)


@cache
def toy():
    return vi.LMM.toy()


def same(one, other):
    """Whether two values are the same all through, arrays bit by bit."""
    if isinstance(one, np.ndarray | torch.Tensor):
        a, b = np.asarray(one), np.asarray(other)
        return type(one) is type(other) and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(one, Image.Image):
        return one.tobytes() == other.tobytes()
    if isinstance(one, vi.EditGraph) or not is_dataclass(one):
        if isinstance(one, tuple):
            return len(one) == len(other) and all(map(same, one, other))
        return one == other
    names = [field.name for field in fields(one)]
    return all(same(getattr(one, name), getattr(other, name)) for name in names)


def test_every_result_is_here():
    classes = {c for _, c in inspect.getmembers(ex, inspect.isclass) if issubclass(c, Result)}
    assert classes | {vi.HeadRanking} == {*MADE}


@each
def test_a_result_is_read_as_it_was_saved(kind, tmp_path):
    found = made(kind)
    found.save(tmp_path / "kept")
    again = kind.load(tmp_path / "kept")
    assert same(found, again)
    assert again.table() == found.table()
    assert again.plot().axes if hasattr(found.plot(), "axes") else again.plot()


@each
def test_a_result_shows_in_one_form(kind):
    found = made(kind)
    assert repr(found).startswith(kind.__name__)
    assert "\n" not in repr(found)
    assert "provenance" not in repr(found)
    lines = found.table().splitlines()
    assert len(lines) > 1
    assert len(lines) < 130
    assert "array(" not in found.table()
    assert found.table().splitlines()[-1] in found._repr_html_().replace("&gt;", ">").replace(
        "&amp;", "&"
    )


@each
def test_a_result_says_where_it_came_from(kind):
    about = json.loads(json.dumps(made(kind).provenance))
    assert about["experiment"] in dir(ex)
    assert about["weights"] == vi.model.fingerprint(toy())["weights"]
    assert {"torch", "transformers", "nnsight", "vsink-interp"} <= {*about["versions"]}
    assert about["measured"].startswith("20")
    assert about["data"] != vi.model.digest([])
    if kind is ex.SinkAblation:
        assert about["settings"] == {"seed": 3, "draws": 1}


@each
def test_a_frame_has_one_row_a_measurement(kind):
    pytest.importorskip("pandas")
    found = made(kind)
    frame = found.to_pandas()
    if kind is ex.KnockoutSweep:  # there a measurement is a change, with its interval
        assert len(frame) == found.mean.size
        return
    assert {"measure", "value"} <= {*frame.columns}
    labels = [name for name in frame.columns if name != "value"]
    assert not frame[labels].duplicated().any()


def test_the_rows_of_a_frame_are_the_entries_of_the_arrays():
    pytest.importorskip("pandas")
    found = made(ex.SegmentShares)
    frame = found.to_pandas()
    (value,) = frame[
        (frame.measure == "mean") & (frame.layer == 4) & (frame.segment == "query")
    ].value
    assert value == found.mean[1, list(found.groups).index("query")]
    assert len(frame) == found.mean.size + found.std.size + found.count.size
    phi = made(ex.SinkValues).to_pandas()
    image = phi[(phi.measure == "phi") & (phi.segment == "image") & (phi.layer == 3)]
    np.testing.assert_allclose(image.value, made(ex.SinkValues).of("image")[0])
    maps = made(ex.WordMaps)
    kept = maps.to_pandas().query("measure == 'by_layer' and layer == 2 and word == '0: ' + @first",
                                  local_dict={"first": maps.words[0]})  # fmt: skip
    np.testing.assert_allclose(kept.value, maps.by_layer[2, 0])


def test_a_table_has_means_over_cases_with_their_interval():
    found = made(ex.SinkAblation)
    line = next(one for one in found.table().splitlines() if "visual sinks" in one)
    assert "95 % bootstrap over 2 cases" in found.table().splitlines()[0]
    drawn = np.random.default_rng(0).integers(2, size=(2000, 2))
    low, high = np.quantile(found.f1[1][drawn].mean(1), [0.025, 0.975])
    assert line.endswith(f"{found.f1[1].mean():.3g} [{low:.3g}, {high:.3g}]")


@logged
def test_an_experiment_goes_on_after_kill_9_and_in_shards(kind, tmp_path):
    """The first step is not taken again, the next by a shard without those before it, the rest
    here; and what is found is what would have been found.
    """
    log = tmp_path / "rows.jsonl"

    def die(_done, _total):
        os.kill(os.getpid(), signal.SIGKILL)

    toy()
    process = FORK.Process(target=MADE[kind], args=(toy(),), kwargs={"log": log, "tick": die})
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL, process.kill()
    before = log.read_text().splitlines()
    assert len(before) == 2, "the head, and one step"
    vi.run_experiment(MADE[kind], toy(), log=log, shard=(1, 2), tick=silent)
    told = merge_logs(log)[log]
    assert told["rows"] == 1 + told["steps"] // 2
    found = vi.run_experiment(MADE[kind], toy(), log=log, tick=silent)
    lines = log.read_text().splitlines()
    assert lines[:2] == before
    assert len({json.loads(line)["step"] for line in lines[1:]}) == len(lines) - 1 == told["steps"]
    whole = made(kind)
    for field in fields(found):
        if field.name != "provenance":
            assert same(getattr(found, field.name), getattr(whole, field.name)), field.name


def test_every_experiment_tells_how_far_it_has_come():
    told = {}
    for kind, make in OF_ONE_IMAGE.items():
        make(toy(), tick=lambda done, total, kind=kind: told.update({kind: (done, total)}))
    assert {*told} == {*OF_ONE_IMAGE}
    assert all(done == total for done, total in told.values())
    asked = [inspect.signature(f) for _, f in inspect.getmembers(ex, inspect.isfunction)]
    experiments = [found for found in asked if found.return_annotation in MADE]
    assert len(experiments) >= len(MADE)
    assert all("tick" in found.parameters for found in experiments)


def test_what_was_not_saved_is_not_read(tmp_path):
    found = made(ex.TokenStrengths)
    found.save(tmp_path)
    with pytest.raises(vi.ResultError, match=r"holds a TokenStrengths.*TokenStrengths\.load"):
        ex.Spectrum.load(tmp_path)
    made(ex.Spectrum).save(tmp_path / "other")
    (tmp_path / "other/result.safetensors").replace(tmp_path / "result.safetensors")
    with pytest.raises(vi.ResultError, match="not the arrays"):
        ex.TokenStrengths.load(tmp_path)
    with pytest.raises(vi.ResultError, match=r"TokenStrengths; write one with result\.save"):
        ex.TokenStrengths.load(tmp_path / "nowhere")


def test_arrays_that_contradict_each_other_are_refused(tmp_path):
    whole = made(ex.SegmentShares)
    object.__setattr__(short := replace(whole), "std", whole.std[:1])
    short.save(tmp_path)
    with pytest.raises(vi.ResultError, match=r"std has 1 of layer|parameter std"):
        ex.SegmentShares.load(tmp_path)
