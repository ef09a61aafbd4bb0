"""The final norm and the unembedding as tensors, against the model itself."""

import pytest
import torch
from torch import nn

import vsink_interp as vi
from tests import nodes, tiny
from vsink_interp import experiments
from vsink_interp.model.unembedding import _gain, token_id


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


@pytest.mark.parametrize("token", [10**6, -1])
def test_what_is_no_token_is_refused(token):
    with pytest.raises(vi.InputError, match="is not one token"):
        vi.readout(tiny.lmm()).direction(token)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("whitish", r"'whitish' is no token of this model.*<unk>"),
        ("red disc", r"'red disc' is not one token.*\['red', 'disc'\]"),
    ],
)
def test_a_word_that_is_no_token_is_refused_everywhere(word, told):
    """Whether the tokenizer does not know it or reads several tokens, which are shown."""
    lmm, image, asked = tiny.lmm(), tiny.image(), "what is this"
    pair = (image, asked), (tiny.image(3), asked)
    gradient = vi.probes.Gradient("hook_resid_pre", of=f"logit of 'red' - {word!r} at last")
    for ask in (
        lambda: vi.readout(lmm).direction("red", word),
        lambda: experiments.logit_attribution(lmm, image, asked, word),
        lambda: experiments.logit_attribution(lmm, image, asked, "red", against=word),
        lambda: experiments.word_lens(lmm, image, asked, ["red", word]),
        lambda: experiments.patching(lmm, *pair, token=word, against="red"),
        lambda: lmm.run(image, asked, vi.probes.TokenProbability(tokens=("red", word))),
        lambda: lmm.run(image, asked, gradient),
    ):
        with pytest.raises(vi.InputError, match=told):
            ask()
    assert vi.readout(lmm).token("<unk>") == 3


def test_a_word_that_begins_with_a_space_is_hinted_at():
    """As in GPT-2's vocabulary: `red` is two tokens, ` red` one."""

    class Spaced:
        unk_token = unk_token_id = None

        def encode(self, text, **_):
            return [7] if text == " red" else [1, 2]

        def decode(self, ids):
            return {1: "re", 2: "d"}[ids[0]]

    with pytest.raises(vi.InputError, match=r"\['re', 'd'\]; ' red', with the space"):
        token_id(Spaced(), "red", 64)
