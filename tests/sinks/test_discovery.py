"""Discovery of sink dimensions, on a model in which they were planted."""

from functools import cache

import numpy as np
import pytest
import torch

import vsink_interp as vi
from tests import tiny
from vsink_interp.probes import Pattern
from vsink_interp.sinks.discovery import PROMPTS, SinkReport, suggest_tau

DIMS = (7, 30)


@cache
def planted():
    """BOS enters with two huge coordinates, which no layer takes away."""
    model = tiny.hf_model(seed=2)
    with torch.no_grad():
        model.model.language_model.embed_tokens.weight[1, list(DIMS)] = torch.tensor([90.0, -60.0])
    return vi.LMM(model, tiny.processor())


def test_planted_dimensions_are_found():
    report = vi.find_sink_dims(planted())
    assert report.dims == DIMS
    assert report.spectrum.shape == (64,)
    assert report.layers == (1, 2, 3)
    low, high = report.gap
    assert low < report.tau <= high
    assert "sink dimensions (7, 30)" in str(report)


def test_tau_tells_bos_from_the_rest():
    lmm = planted()
    assert lmm.sinks == lmm.sink_report.sinks
    probe = vi.probes.SinkValue(layers="1:")
    phi = lmm.run(tiny.encode(), graph=probe)[probe].values
    assert (phi[..., 0] >= lmm.sinks.tau).all()
    assert (phi[..., 1:] < lmm.sinks.tau).all()


def test_the_spectrum_is_the_least_normalised_residual_of_bos():
    report = planted().sink_report
    asked = [(None, prompt) for prompt in PROMPTS]
    least = np.full(64, np.inf)
    with torch.no_grad():
        for image, prompt in asked:
            encoding = planted().encode(image, prompt)
            out = planted().hf_model(**encoding.inputs, output_hidden_states=True)
            for layer in report.layers:
                x = out.hidden_states[layer][0, 0].double().numpy()
                least = np.minimum(least, np.abs(x) / np.sqrt((x**2).mean()))
    assert (report.spectrum.numpy() <= least + 1e-4).all(), "an image can only lower it"
    assert report.spectrum[7] == pytest.approx(least[7], rel=0.1)


def test_the_causal_check_is_the_attention_to_bos():
    lmm, report = planted(), planted().sink_report
    probe = Pattern(layers=report.layers)
    lmm_run = lmm.run(None, PROMPTS[0], probe)
    assert 0 <= report.bos_mass <= 1
    assert report.bos_mass != report.bos_mass_clamped
    assert lmm_run[probe].values[..., 0].mean() >= 0


def test_a_model_without_sinks_is_told():
    with pytest.raises(vi.CapabilityError, match=r"no sink dimension found.*SinkDims\(dims, tau\)"):
        vi.find_sink_dims(tiny.lmm())
    lmm = vi.LMM(tiny.lmm().hf_model, tiny.processor())
    with pytest.raises(vi.CapabilityError, match="no sink dimension"):
        lmm.run(tiny.encode(), graph=vi.VAR())
    loose = vi.find_sink_dims(tiny.lmm(), share=0.02)
    assert len(loose.dims) >= 1


@pytest.mark.parametrize(
    ("phi", "width", "low", "high"),
    [
        ([1.0, 3.0, 9.0, 28.0, 50.0], 4096, 10.0, 28.0),
        ([1.0, 3.0], 4096, 10.0, 30.0),
        ([12.0, 13.0, 14.0, 29.0], 4096, 14.0, 29.0),
        ([0.5, 1.0, 6.0], 256, 2.5, 6.0),
    ],
)
def test_tau_lies_in_the_widest_gap(phi, width, low, high):
    assert suggest_tau(torch.tensor(phi), width) == pytest.approx((low + high) / 2)


@pytest.mark.parametrize(
    ("phi", "gap"),
    [
        ([1.0, 5.0, 9.0], (1.0, 5.0)),
        ([1.0, 4.0, 9.0], (4.0, 9.0)),
        ([5.0, 6.0], (0.0, 5.0)),
        ([1.0, 2.0], (2.0, float("inf"))),
    ],
)
def test_a_token_whose_phi_is_tau_is_a_sink(phi, gap):
    sinks = vi.SinkDims((1,), 5.0)
    report = SinkReport(sinks, torch.zeros(4), torch.tensor(phi), (0,), 0.5, 0.1)
    assert report.gap == gap


class SeenError(Exception):
    """Enough was seen."""


class Asked:
    """A model that is asked about some layers, and notes which."""

    def __init__(self, offered):
        self.offered, self.layers = offered, None

    def layers_with(self, hook):
        assert hook == "attn.hook_pattern"
        return self.offered

    def run(self, *asked):
        self.layers = asked[2].layers
        raise SeenError


@pytest.mark.parametrize(
    ("offered", "wanted"),
    [
        (tuple(range(32)), (8, 13, 18, 22)),
        (tuple(range(40)), (10, 16, 22, 28)),
        (tuple(range(4)), (1, 2, 3)),
        ((3, 7, 11), (7, 11)),
        ((5,), (5,)),
    ],
)
def test_discovery_looks_at_the_middle_half_of_the_layers_with_patterns(offered, wanted):
    model = Asked(offered)
    with pytest.raises(SeenError):
        vi.find_sink_dims(model)
    assert model.layers == wanted
