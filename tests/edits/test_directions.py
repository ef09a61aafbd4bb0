"""Directions as differences of means, against numpy over plain transformers' hidden states."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import vsink_interp as vi
from tests import tiny

STREAM = vi.probes.Activation("hook_resid_post", layers=(0, 2))
WITH, WITHOUT = ("two images", "one image"), ("short", "image last", "text")


def hidden(name, layer):
    """The stream leaving a layer, token by token, from transformers alone."""
    model = tiny.lmm().hf_model
    with torch.no_grad():
        out = model(**tiny.encode(name).inputs, output_hidden_states=True)
    return out.hidden_states[layer + 1][0].double().numpy()


def runs(*batches):
    """As a generator: a batch, and prompts one by one."""
    return (tiny.lmm().run(tiny.batch(*names), graph=STREAM) for names in batches)


@pytest.fixture(scope="module")
def found():
    return vi.Directions.difference(runs(WITH), runs(WITHOUT[:2], WITHOUT[2:]), rows="query")


def test_it_is_the_difference_of_means_over_cases(found):
    for place, layer in enumerate((0, 2)):
        means = [
            np.mean(
                [hidden(n, layer)[tiny.encode(n).layout.mask("query")[0]].mean(0) for n in ns], 0
            )
            for ns in (WITH, WITHOUT)
        ]
        np.testing.assert_allclose(found.vectors[place], means[0] - means[1], atol=1e-4)
    assert (found.layers, found.cases, found.rows) == ((0, 2), (2, 3), "query")
    assert "cases=(2, 3)" in repr(found)


def test_it_steers_where_it_was_learned(found):
    edits = found.steer(0.5, norm="keep")
    assert [node.layers for node in edits] == [0, 2]
    assert {node.norm for node in edits} == {"keep"}
    one = found.steer(2.0, layers=2, rows="last")
    assert one == vi.EditGraph(vi.Steer(found.vectors[1], 2, scale=2.0, rows="last"))
    plain = tiny.plain(tiny.lmm(), tiny.encode())
    assert (tiny.lmm().run(tiny.encode(), graph=edits).logits - plain).abs().max() > 1e-3
    with pytest.raises(vi.ResultError, match="no direction"):
        found.steer(layers=1)


def test_a_range_of_layers_ends_with_the_last_that_has_a_direction(found):
    near = replace(found, layers=(0, 1))
    assert [node.layers for node in near.steer(layers=":")] == [0, 1]
    assert [node.layers for node in near.steer(layers="1:")] == [1]


def test_it_is_kept_in_a_file(found, tmp_path):
    path = tmp_path / "direction.safetensors"
    found.save(path)
    again = vi.Directions.load(path)
    assert repr(again) == repr(found)
    assert torch.equal(again.vectors, found.vectors)
    half = path.read_bytes()[:100]
    for name, content in (("half", half), ("empty", b""), ("text", b"{}")):
        broken = tmp_path / name
        broken.write_bytes(content)
        with pytest.raises(vi.ResultError, match=name):
            vi.Directions.load(broken)
    with pytest.raises(vi.ResultError):
        vi.Directions.load(tmp_path / "nowhere")
    for odd in (replace(found, layers=(0,)), replace(found, vectors=found.vectors / 0)):
        odd.save(path)
        with pytest.raises(vi.ResultError, match="numbers of layers"):
            vi.Directions.load(path)


def test_what_cannot_be_averaged_is_refused():
    plain = tiny.lmm().run(tiny.encode())
    with pytest.raises(vi.ResultError, match="record"):
        vi.Directions.difference(plain, plain)
    one, other = (next(runs((name,))) for name in ("one image", "text"))
    with pytest.raises(vi.LayoutError, match="no recorded row"):
        vi.Directions.difference(one, other, rows="image")
    with pytest.raises(vi.ResultError, match="at least one run"):
        vi.Directions.difference(one, [])
    odd = replace(one, model="another")
    for pair in ((one, odd), ([one, odd], one)):
        with pytest.raises(vi.ResultError, match="two models"):
            vi.Directions.difference(*pair)
    elsewhere = tiny.lmm().run(
        tiny.encode(), graph=vi.probes.Activation("hook_resid_post", layers=1)
    )
    with pytest.raises(vi.ResultError, match="other layers"):
        vi.Directions.difference(one, elsewhere)
