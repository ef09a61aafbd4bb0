"""Experiments stand on the toy LMM, and on plain transformers beside it."""

import pytest
import torch
from transformers import LlavaForConditionalGeneration

import vsink_interp as vi
from vsink_interp.experiments import Cases
from vsink_interp.toy import weights_dir


@pytest.fixture(scope="package")
def cases():
    return Cases.scenes(3, first_seed=5)


@pytest.fixture(scope="package")
def sunk():
    """The toy LMM with the sinks that it was trained to have."""
    return vi.LMM.toy()


@pytest.fixture(scope="package")
def answered(sunk, cases):
    return sunk.generate(list(cases.images), list(cases.prompts), max_new_tokens=40)


class Plain:
    """What plain transformers, with eager attention, says of a whole answered batch."""

    def __init__(self, lmm, cases, run):
        self.model = LlavaForConditionalGeneration.from_pretrained(
            weights_dir, attn_implementation="eager", dtype=torch.float32
        ).eval()
        inputs = lmm.encode(list(cases.images), list(cases.prompts)).inputs
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
        self.unit, self.phi = unit.abs(), unit[..., list(lmm.sinks.dims)].abs().amax(-1)


@pytest.fixture(scope="package")
def plain(sunk, cases, answered):
    return Plain(sunk, cases, answered)
