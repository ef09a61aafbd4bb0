"""Prompts in batches of a size: the run that comes back is that of all at once."""

import pytest
import torch

import vsink_interp as vi
from tests import nodes, tiny

NAMES = ["one image", "short", "image last", "text", "two images"]
PROBES = (
    vi.probes.SegmentMass()
    | vi.probes.Pattern("query generated", layers=[0, 2])
    | vi.probes.SinkValue("all")
    | vi.probes.LogitLens("query", layers=1, top_k=2)
)


def asked() -> tuple[list, list]:
    images, prompts = zip(*(tiny.PROMPTS[name] for name in NAMES), strict=True)
    return list(images), list(prompts)


def same(got: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Equal to rounding wherever the first has a number."""
    there = ~got.isnan() & ~wanted.isnan()
    assert there.any()
    return nodes.apart(got[there], wanted[there]) < 1e-4


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_a_run_in_batches_is_the_run_of_all(size):
    lmm, (images, prompts) = tiny.lmm(), asked()
    whole = lmm.run(images, prompts, PROBES)
    parts = lmm.run(images, prompts, PROBES, batch_size=size)
    assert torch.equal(parts.ids, whole.ids)
    assert parts.text == whole.text
    assert parts.words == whole.words
    assert str(parts.layout) == str(whole.layout)
    real = whole.layout.mask("all")
    assert nodes.apart(parts.logits[real], whole.logits[real]) < 1e-4
    for node in PROBES:
        one, other = parts[node], whole[node]
        assert one.axes == other.axes
        rows = "query" if "query" in one.axes else "token"
        assert set(one.labels(rows)) <= set(other.labels(rows))
        picked = other.values.index_select(
            other.axis(rows), torch.tensor(other.places(rows, one.labels(rows)))
        )
        if one.values.is_floating_point():
            assert same(one.values, picked)
            over = [axis for axis in one.axes if axis != "layer"]
            assert nodes.apart(one.mean(*over).values, other.mean(*over).values) < 1e-4
    said = [run["LogitLens", "word"] for run in (parts, whole)]
    assert said[0].sel(query=said[1].labels("query")).words.tolist() == said[1].words.tolist()


@pytest.mark.parametrize("size", [2, 3])
def test_answers_in_batches_are_those_of_all(size):
    lmm, (images, prompts) = tiny.lmm(), asked()
    whole = lmm.generate(images, prompts, PROBES, max_new_tokens=4)
    parts = lmm.generate(images, prompts, PROBES, max_new_tokens=4, batch_size=size)
    assert torch.equal(parts.ids, whole.ids)
    assert nodes.apart(parts.logits, whole.logits) < 1e-4
    mass = parts[vi.probes.SegmentMass]
    assert mass.labels("query") == whole[vi.probes.SegmentMass].labels("query")
    assert same(mass.values, whole[vi.probes.SegmentMass].values)
    over = ("batch", "head", "query")
    assert nodes.apart(mass.mean(*over).values, whole["SegmentMass"].mean(*over).values) < 1e-4


def test_answers_that_end_early_are_filled_up(monkeypatch):
    """The first batch ends at once, the second goes on."""
    lmm, (images, prompts) = tiny.fresh(), asked()
    whole = lmm.generate(images[:4], prompts[:4], max_new_tokens=4)
    end = int(whole.generated[0, 0])
    monkeypatch.setattr(lmm.hf_model.generation_config, "eos_token_id", end)
    whole = lmm.generate(images[:4], prompts[:4], max_new_tokens=4)
    parts = lmm.generate(images[:4], prompts[:4], max_new_tokens=4, batch_size=1)
    assert torch.equal(parts.ids, whole.ids)
    assert parts.text == whole.text
    assert str(parts.layout) == str(whole.layout)


def test_one_image_may_serve_many_prompts_and_a_run_is_saved(tmp_path):
    prompts = ["count", "what is the red disc ?", "yes or no"]
    run = tiny.lmm().run(tiny.image(), prompts, batch_size=2)
    assert len(run.text) == 3
    run.save(tmp_path)
    assert str(vi.Run.load(tmp_path).layout) == str(run.layout)


@pytest.mark.parametrize(
    ("prompt", "size", "message"),
    [
        ("count", 2, "splits a list of prompts"),
        (["count"], 0, "at least 1"),
        ([], 2, "at least 1"),
        ([{"role": "user", "content": "count"}], 2, "splits a list of prompts"),
    ],
)
def test_what_cannot_be_split_is_refused(prompt, size, message):
    with pytest.raises(vi.InputError, match=message):
        tiny.lmm().run(tiny.image(), prompt, batch_size=size)
    with pytest.raises(vi.InputError, match="no axis 'batch'"):
        tiny.lmm().run(
            tiny.image(), ["count"], vi.probes.Activation("vision_projector.hook_out"), batch_size=2
        )
