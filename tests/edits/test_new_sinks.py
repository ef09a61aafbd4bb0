"""Which generated tokens are sinks, kept up in decode, against one pass over prompt and answer."""

from dataclasses import replace

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import vsink_interp as vi
from tests import tiny
from tests.nodes import apart
from vsink_interp.edits import ACT, Redistribute, ScaleKeys, ScaleScores
from vsink_interp.engine import row_program
from vsink_interp.probes import SegmentMass, SinkValue

N = 8
EDITS = {
    "knockout": vi.Knockout("sink -> query generated", "1:"),
    "knockout of heads": vi.Knockout("~sink & generated -> generated", heads=(0, 2)),
    "sinks as rows": vi.Knockout("bos -> sink"),
    "moved from sinks": Redistribute("sink", "image", 0.9),
    "moved to what is no sink": Redistribute("image", "~sink & generated", 0.9, heads=(1, 3)),
    "moved to sinks": Redistribute("image & ~sink", "sink generated", 0.5),
    "both": Redistribute("sink", "image sink generated", 0.8, rows="generated"),
    "scaled": ScaleScores("sink generated & ~sink bos", 3.0, rows="generated"),
    "answer by another name": ScaleScores("~prompt & sink image", 3.0),
    "keys of sinks": ScaleKeys("sink", 0.3),
    "keys of what is no sink": ScaleKeys("generated & ~sink", 0.3),
    "redistributed": vi.VAR(rho=0.2, min_image_mass=0.01),
}


def again(encoding, ids):
    """Prompt and answer as one prompt, of which the answer still counts as generated."""
    new = ids.shape[1] - encoding.layout.length
    mask = torch.cat([encoding.inputs["attention_mask"], torch.ones(len(ids), new).long()], 1)
    inputs = {**encoding.inputs, "input_ids": ids, "attention_mask": mask}
    return replace(encoding, inputs=inputs, layout=encoding.layout.extend(new))


@pytest.mark.parametrize("name", EDITS)
def test_new_sinks_are_found_as_in_one_pass(name):
    lmm, encoding, edit = tiny.lmm(), tiny.batch("one image", "short", "two images"), EDITS[name]
    phi = SinkValue("generated")
    run = lmm.generate(encoding, graph=edit | phi, max_new_tokens=N)
    found = run[phi].values[1:] >= tiny.SINKS.tau
    assert found.any(), "no generated token is a sink"
    assert not found.all(), "every generated token is a sink"
    whole = lmm.run(again(encoding, run.ids), graph=edit)
    assert apart(whole.logits[:, list(run.answer_rows)], run.logits) < 4e-5
    plain = lmm.generate(encoding, max_new_tokens=N)
    assert apart(plain.logits[:, 1:], run.logits[:, 1:]) > 1e-2


@pytest.mark.parametrize("name", EDITS)
def test_an_answer_read_with_its_prompt_may_come_in_tiles(name, monkeypatch):
    lmm, edit = tiny.lmm(), EDITS[name]
    encoding = tiny.batch("one image", "short", "two images")
    words = torch.arange(20, 35).repeat(3, 1)
    read = again(encoding, torch.cat([encoding.inputs["input_ids"], words], 1))
    whole = lmm.run(read, graph=edit).logits
    monkeypatch.setattr(row_program, "TILE_ELEMENTS", 1)
    monkeypatch.setattr(row_program, "LEAST_ROWS", 4)
    assert apart(lmm.run(read, graph=edit).logits, whole) < 1e-5


@vi.probe("attn.hook_z")
def asks_behind(z, site) -> Float[Tensor, "batch"]:
    return site.keys("sink").sum(-1).to(z)


def test_who_else_asks_for_sinks_changes_nothing():
    """Asked last in the prefill, and in a decode step after the edit."""
    lmm, encoding = tiny.lmm(), tiny.encode("two images")
    edit = Redistribute("sink", "image & ~sink", 0.9, rows="generated")
    runs = [lmm.generate(encoding, graph=g, max_new_tokens=N) for g in (edit, edit | asks_behind)]
    assert torch.equal(runs[0].logits, runs[1].logits)


@vi.probe("attn.hook_pattern")
def now_and_then(pattern, site) -> Float[Tensor, "batch query"]:
    """Asks for sinks in every third step alone."""
    if site.n_keys % 3:
        return pattern[:, 0, :, 0] * 0 - 1
    return (pattern * site.keys("sink")[:, None, None]).sum(-1).mean(1)


def test_a_step_that_nobody_asked_about_is_made_up_for():
    lmm, encoding = tiny.lmm(), tiny.encode()
    mass = SegmentMass(groups=("sink",))
    run = lmm.generate(encoding, graph=now_and_then | mass, max_new_tokens=N)
    got = run[now_and_then].values[:, 0, encoding.layout.length :]
    want = run[mass].values[..., 0].mean(2)[:, 0, -got.shape[1] :]
    asked = got[0] >= 0
    assert 2 <= int(asked.sum()) <= 3
    torch.testing.assert_close(got[:, asked], want[:, asked])


def test_what_gives_nothing_changes_nothing():
    """A row that has nothing to give keeps what it has."""
    lmm, encoding = tiny.lmm(), tiny.encode()
    plain = lmm.generate(encoding, max_new_tokens=N).logits
    for edit in (
        ACT(1.0, 0.1, layers=":", rows="prompt generated"),
        Redistribute("image", "bos", 0.0),
    ):
        assert apart(lmm.generate(encoding, graph=edit, max_new_tokens=N).logits, plain) < 1e-5
