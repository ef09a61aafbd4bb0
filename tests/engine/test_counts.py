"""What a decode step costs beside the plain model: tensor operations and host synchronisations.

Counted, so the same on every machine. The difference of a longer and a shorter answer leaves the
steps alone.
"""

from functools import cache

import pytest
import torch

import vsink_interp as vi
from tests import tiny
from tests.engine.counting import counted
from vsink_interp import edits

SHORT, LONG = 4, 8
FOUND_ONLINE = 14
"""Two norms, their scale and ratio, and a comparison for the new token are five operations more."""
NEW_SINKS = 5
"""So is it for other edits that ask whether the new token is a sink."""

SCALED_BEFORE = 1
"""Rows that an edit before it has scaled out of 0 to 1 are told apart."""

CASES = {
    "knockout": (vi.Knockout("image -> query generated"), 4, 4),
    "knockout of heads": (vi.Knockout("image -> query generated", heads=(0, 2)), 4, 5),
    "knockout of sinks": (vi.Knockout("sink & image -> query generated"), 4, 8),
    "ablation": (vi.HideKeys("sink & image", control=3, pool="all"), 4, 8),
    "segment mass": (vi.probes.SegmentMass(), 4, 6),
    "maps": (vi.probes.AttentionMaps(), 4, 10),
    "non-sink ratio": (vi.probes.NonSinkRatio(), 4, 10),
    "var": (vi.VAR(rho=0.2, sinks_from="prefill"), 3, 10),
    "var, released code": (vi.VAR(rho=0.8, mode="released-code"), 2, 10),
    "var, sinks found online": (vi.VAR(rho=0.2), 3, FOUND_ONLINE),
    "steering": (edits.Steer((0.1,) * tiny.WIDTH), 4, 2),
    "mass moved": (edits.Redistribute("bos", "image", 0.5), 4, 8),
    "mass moved in heads": (edits.Redistribute("sink & image", "bos", 0.5, heads=(0, 2)), 4, 8),
    "mass moved from new sinks": (edits.Redistribute("sink", "image", 0.5), 4, 8 + NEW_SINKS),
    "knockout of new sinks": (vi.Knockout("sink -> query generated"), 4, 6 + NEW_SINKS + 1),
    "calibration": (edits.ACT(0.06, rows="prompt generated", layers=":"), 4, 11),
    "calibration of heads": (edits.ACT(0.06, rows="generated", layers=":", heads=(0,)), 4, 11),
    "contribution": (vi.probes.Contribution(), 4, 15),
    "attribution": (vi.probes.LogitAttribution(direction=(0.5, -0.5) * (tiny.WIDTH // 2)), 4, 10),
    "scores": (edits.ScaleScores("image", 1.5, by="size", heads=(0, 3)), 4, 10),
    "register": (vi.SoftmaxRegister(0.0), 4, 11 + SCALED_BEFORE),
    "heads chosen by row": (vi.ScaleHeads(0.1, heads=~vi.TopHeads("image", 2)), 4, 16),
    "scaled pattern": (vi.ScalePattern("image", 0.5), 4, 4),
    "tokens found before": (vi.Knockout("top(image,3,1) -> query generated"), 4, 4),
    "empty graph": (vi.EditGraph(), 4, 0),
}
"""The graph, how many layers it edits, and the most operations per layer and step."""


def steps(run):
    """Operations and synchronisations of the decode steps alone."""
    short, long = counted(lambda: run(SHORT)), counted(lambda: run(LONG))
    return long.ops - short.ops, long.syncs - short.syncs


@cache
def plain_steps(*prompts):
    """Of the untouched model, by transformers' own `generate`."""
    options = {"return_dict_in_generate": True, "output_logits": True}

    def generate(length):
        with torch.no_grad():
            tiny.lmm().hf_model.generate(
                **tiny.batch(*prompts).inputs, max_new_tokens=length, **options
            )

    return steps(generate)


@pytest.mark.parametrize("prompts", [("one image",), ("one image", "short", "two images")])
@pytest.mark.parametrize("name", CASES)
def test_a_decode_step_costs_few_operations_and_no_synchronisation(name, prompts):
    graph, layers, most = CASES[name]
    lmm, encoding = tiny.lmm(), tiny.batch(*prompts)
    ours, waits = steps(lambda n: lmm.generate(encoding, graph=graph, max_new_tokens=n))
    base, base_waits = plain_steps(*prompts)
    extra = (ours.total() - base.total()) / layers / (LONG - SHORT)
    assert base.total() > 100, "nothing was counted"
    assert extra <= most, ours - base
    assert (ours != base) == (graph != vi.EditGraph()), "nothing was done, or more than asked for"
    assert waits == base_waits


DROPS = {
    "image": (vi.DropKeys("image"), 0, 2),
    "sinks": (vi.DropKeys("sink & image"), 0, 8),
    "and mass": (vi.DropKeys("image") | vi.probes.SegmentMass(), 9, 13),
}
"""The most operations per layer and step: of one sample, and of a batch of unlike numbers."""


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("name", DROPS)
def test_a_shorter_cache_costs_nothing_but_a_mask_where_a_batch_needs_one(name, ragged):
    graph, *most = DROPS[name]
    prompts = ("one image", "short", "two images") if ragged else ("one image",)
    lmm, encoding = tiny.lmm(), tiny.batch(*prompts)
    ours, waits = steps(lambda n: lmm.generate(encoding, graph=graph, max_new_tokens=n))
    base, base_waits = plain_steps(*prompts)
    assert base.total() > 100, "nothing was counted"
    extra = (ours.total() - base.total()) / 4 / (LONG - SHORT)
    assert extra <= most[ragged], ours - base
    assert extra > 0 or not most[ragged]
    assert waits == base_waits


def test_what_waits_for_the_device_is_counted():
    value = torch.arange(4.0)
    assert counted(lambda: value.sum().item()).syncs.total() == 1
    assert counted(lambda: value[value > 1]).syncs.total() == 1
    assert counted(value.nonzero).syncs.total() == 1
    assert counted(lambda: value.view(2, 2).mT[:1]).ops.total() == 0
