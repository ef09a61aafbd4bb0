"""The final norm and the unembedding as tensors, against the model itself."""

import pytest
import torch
from torch import nn

import vsink_interp as vi
from tests import nodes, tiny
from vsink_interp import experiments
from vsink_interp.model.unembedding import _gain


def last_resid():
    inputs = tiny.encode().inputs
    model = tiny.lmm().hf_model
    with torch.no_grad():
        kept = []
        handle = model.model.language_model.layers[-1].register_forward_hook(
            lambda *seen: kept.append(seen[2])
        )
        logits = model(**inputs).logits
        handle.remove()
    return kept[0], logits


@pytest.mark.parametrize("against", [None, "blue"])
def test_a_direction_gives_the_logit(against):
    resid, logits = last_resid()
    found = vi.readout(tiny.lmm())
    ids = tiny.tokenizer().convert_tokens_to_ids(["red", "blue"])
    wanted = logits[..., ids[0]] - (logits[..., ids[1]] if against else 0)
    direction = found.direction("red", against)
    ours = (resid / found.scale(resid)) @ direction + found.offset("red", against)
    assert float(wanted.abs().max()) > 0.5
    assert nodes.apart(ours, wanted) < 1e-5
    assert torch.equal(found.direction(ids[0], against), direction)


class Gemma(nn.Module):
    """An RMS norm that writes its gain as one plus a weight."""

    def __init__(self, width):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.randn(width) * 0.1), 1e-6

    def forward(self, x):
        return x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt() * (1 + self.weight)


def test_a_gain_is_read_by_what_it_does():
    norm = Gemma(8)
    gain, eps = _gain(norm, 8)
    assert eps == 1e-6
    assert nodes.apart(gain, 1 + norm.weight) < 1e-5


def test_a_norm_that_centres_is_refused():
    with pytest.raises(vi.CapabilityError, match="LayerNorm is not an RMS norm"):
        _gain(nn.LayerNorm(8), 8)


@pytest.mark.parametrize("token", ["red disc", 10**6, -1])
def test_what_is_no_token_is_refused(token):
    with pytest.raises(vi.InputError, match="is not one token"):
        vi.readout(tiny.lmm()).direction(token)


def test_a_word_that_the_tokenizer_does_not_know_is_refused():
    lmm, image = tiny.lmm(), tiny.image()
    pair = (image, "what is this"), (tiny.image(3), "what is this")
    for ask in (
        lambda: vi.readout(lmm).direction("whitish"),
        lambda: experiments.logit_attribution(lmm, image, "what is this", "whitish"),
        lambda: experiments.word_lens(lmm, image, "what is this", ["red", "whitish"]),
        lambda: experiments.patching(lmm, *pair, token="whitish", against="red"),
    ):
        with pytest.raises(vi.InputError, match=r"'whitish' is no token of this model.*<unk>"):
            ask()
    assert vi.readout(lmm).token("<unk>") == 3
