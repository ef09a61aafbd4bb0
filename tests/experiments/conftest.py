"""Experiments stand on a toy LMM with known sinks, and on plain transformers beside it."""

import pytest
import torch
from transformers import LlavaForConditionalGeneration

import vsink_interp as vi
from vsink_interp.experiments import Cases
from vsink_interp.toy import weights_dir

DIMS = (3, 7)


@pytest.fixture(scope="package")
def cases():
    return Cases.scenes(3, first_seed=5)


@pytest.fixture(scope="package")
def sunk(cases):
    """A toy LMM whose sink dimensions are set so that about two image tokens in 64 are sinks."""
    lmm = vi.LMM.toy()
    probe = vi.probes.SinkValue("image", dims=DIMS)
    phi = lmm.run(list(cases.pictures), list(cases.prompts), probe)[probe].values
    lmm.sinks = vi.SinkDims(DIMS, float(phi[2:].quantile(0.97)))
    return lmm


@pytest.fixture(scope="package")
def answered(sunk, cases):
    return sunk.generate(list(cases.pictures), list(cases.prompts), max_new_tokens=40)


class Plain:
    """What plain transformers, with eager attention, says of a whole answered batch."""

    def __init__(self, lmm, cases, run):
        self.model = LlavaForConditionalGeneration.from_pretrained(
            weights_dir, attn_implementation="eager", dtype=torch.float32
        ).eval()
        inputs = lmm.encode(list(cases.pictures), list(cases.prompts)).inputs
        with torch.no_grad():
            made = self.model(
                input_ids=run.ids,
                attention_mask=torch.ones_like(run.ids),
                pixel_values=inputs["pixel_values"],
                output_hidden_states=True,
                output_attentions=True,
            )
        self.resid = torch.stack(made.hidden_states[:-1])
        self.pattern = torch.stack(made.attentions)
        unit = self.resid / self.resid.square().mean(-1, keepdim=True).sqrt()
        self.unit, self.phi = unit.abs(), unit[..., list(DIMS)].abs().amax(-1)


@pytest.fixture(scope="package")
def plain(sunk, cases, answered):
    return Plain(sunk, cases, answered)
