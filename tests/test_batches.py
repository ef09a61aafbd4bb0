"""Samples of a batch that differ: one ends early, one has visual sinks, padding, images elsewhere.

That a batch equals its samples one by one, for every edit and probe: `test_laws.py`.
"""

import pytest
import torch

import vsink_interp as vi
from tests import nodes, tiny
from tests.nodes import EDITS, apart
from vsink_interp.probes import SinkValue

N = 5
NAMES = ("two images", "one image", "short")
NEAR = 2e-5
AT = 2


def ending_early(ids):
    """A token that ends one answer before the others: the earliest that another lacks so soon."""
    for place in range(1, N - 1):
        for token in ids[:, place].tolist():
            lengths = [row.index(token) + 1 if token in row else N for row in ids.tolist()]
            if min(lengths) < max(lengths):
                return token, lengths
    raise AssertionError("all answers are the same")


@pytest.mark.parametrize("name", EDITS)
def test_an_answer_that_ends_early_does_not_disturb_the_others(name):
    lmm, batch, edit = tiny.lmm(), tiny.batch(*NAMES), EDITS[name]
    free = lmm.generate(batch, graph=edit, max_new_tokens=N)
    token, lengths = ending_early(free.generated)
    run = lmm.generate(batch, graph=edit, max_new_tokens=N, eos_token_id=token)
    assert run.layout.mask("generated").sum(-1).tolist() == lengths
    for i, length in enumerate(lengths):
        assert torch.equal(run.generated[i, :length], free.generated[i, :length])
        assert (run.generated[i, length:] == 0).all()
        assert apart(run.logits[i, :length], free.logits[i, :length]) < NEAR


def lonely(*names):
    """A model whose tau leaves visual sinks in layer 2 to one of these prompts, and which one."""
    lmm = tiny.fresh()
    probe = SinkValue("image", AT)
    largest = [float(lmm.run(tiny.encode(n), graph=probe)[probe].values.max()) for n in names]
    second, first = sorted(largest)[-2:]
    assert first - second > 0.01, "no threshold tells them apart"
    lmm.sinks = vi.SinkDims(tiny.SINKS.dims, (first + second) / 2)
    return lmm, largest.index(first)


OF_SINKS = {
    "paper": vi.VAR(p=0.6, rho=0.2, min_image_mass=0.05, layers=AT),
    "released code": vi.VAR(p=0.2, rho=0.8, min_image_mass=0.05, layers=AT, mode="released-code"),
    "knockout": vi.Knockout("sink & image -> query generated", AT),
    "ablation": vi.HideKeys("sink & image", AT),
    "scores": vi.edits.AddScores("sink & image", 2.0, layers=AT),
    "mass": vi.edits.Redistribute("sink & image", "image", 0.9, layers=AT),
    "dropped": vi.DropKeys("sink & image", AT),
}


@pytest.mark.parametrize("name", OF_SINKS)
def test_one_sample_has_visual_sinks_and_the_others_none(name):
    edit, prompts = OF_SINKS[name], ("one image", "short", "image last")
    lmm, which = lonely(*prompts)
    batch = tiny.batch(*prompts)
    together = lmm.generate(batch, graph=edit, max_new_tokens=N)
    plain = lmm.generate(batch, max_new_tokens=N)
    for i, prompt in enumerate(prompts):
        alone = lmm.generate(tiny.encode(prompt), graph=edit, max_new_tokens=N)
        assert torch.equal(together.generated[i], alone.generated[0])
        assert apart(together.logits[i], alone.logits[0]) < 2 * NEAR
        change = apart(together.logits[i], plain.logits[i])
        if i == which:
            assert change > 1e-3, "the sample with sinks is edited"
        elif name != "paper":  # in the paper's form text sinks are enough
            assert change < NEAR, "the others are left alone"


@pytest.mark.parametrize("name", [*nodes.VARS, *nodes.CONTRASTS, *nodes.PATCHES])
def test_the_order_of_samples_changes_nothing(name):
    lmm, edit = tiny.lmm(), EDITS[name]
    one, other = (
        lmm.generate(tiny.batch(*names), graph=edit, max_new_tokens=N)
        for names in (NAMES, NAMES[::-1])
    )
    assert torch.equal(one.generated, other.generated.flip(0))
    assert apart(one.logits, other.logits.flip(0)) < NEAR
