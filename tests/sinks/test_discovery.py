"""Discovery of sink dimensions, on a model in which they were planted."""

from functools import cache

import numpy as np
import pytest
import torch

import vsink_interp as vi
from tests import tiny
from vsink_interp.probes import Pattern, Resid
from vsink_interp.sinks.causal import CausalCheck, FirstTokenMass, _random_dims
from vsink_interp.sinks.discovery import PROMPTS, SinkReport, _plain_image, _written
from vsink_interp.sinks.threshold import valley

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


def spread(low, high, count=200):
    """Values evenly over a range."""
    return torch.linspace(low, high, count)


@pytest.mark.parametrize(
    ("first", "rest", "low", "high", "shape"),
    [
        # SmolLM2-135M (width 576): ordinary tokens 8 to 18, first tokens 23.8; other sinks or none.
        ([23.8, 23.6], torch.cat([spread(8, 18), spread(22.5, 24, 20)]), 19.9, 20.1, "two modes"),
        ([23.8, 23.6], spread(8, 18), 19.9, 20.1, "none"),
        # Ordinary tokens reach beyond 20: the valley is above it.
        ([24.0], torch.cat([spread(8, 20.6), spread(23.5, 24, 40)]), 21, 23, "two modes"),
        # They thin out through 20 up to the first tokens.
        ([23.8], torch.cat([spread(8, 16), spread(16, 23.8, 80)]), 16, 24, "tail"),
        # LLaVA-1.5-7B: far apart, and 20 lies between.
        ([55.0], torch.cat([spread(0.5, 6), spread(40, 50, 5)]), 19.9, 20.1, "two modes"),
        # One token of a thousand near 20 is no crowd.
        ([24.0], torch.cat([spread(8, 16, 999), torch.tensor([20.0])]), 19.99, 20.01, "tail"),
        # The widest empty place, not the last.
        ([10.0], torch.cat([spread(0.5, 1), spread(8, 8.5, 9)]), 2.75, 2.9, "two modes"),
        # A narrow model whose phi cannot reach 20.
        ([5.7, 5.5], torch.cat([spread(0.2, 1.8), spread(5, 5.6, 9)]), 2, 5, "two modes"),
    ],
)
def test_tau_lies_in_the_valley_and_at_20_where_that_is_one(first, rest, low, high, shape):
    found = valley(torch.tensor(first), rest)
    assert low < found.tau < high
    assert found.shape == shape
    assert f"first tokens {min(first):.1f} or more" in str(found)


@pytest.mark.parametrize(
    ("first", "rest", "high"),
    [(3.0, spread(4, 9), 3.0), (4.0, spread(4, 4, 5), 4 / 1.075)],
)
def test_first_tokens_that_hold_no_more_than_others_have_tau_below_them(first, rest, high):
    """Between their least and half of it, in the middle of where no other token is."""
    found = valley(torch.tensor([first, 8.0]), rest)
    assert found.tau == pytest.approx((first / 2 * high) ** 0.5, rel=0.01)


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


@pytest.mark.parametrize("rest", [[], [0.0], [0.0] * 9])
@pytest.mark.parametrize("first", [40.0, 8.0])
def test_tau_is_a_number_where_other_tokens_hold_nothing_or_are_none(first, rest):
    found = valley(torch.tensor([first]), torch.tensor(rest))
    assert 0.1 < found.tau < first
    assert (found.shape, found.ordinary, found.first) == ("none", 0.0, first)
    assert (found.tau == pytest.approx(20.0)) == (first > 20)


def test_a_model_that_erases_its_sinks_and_writes_them_again():
    """Layer 2 takes dimension 7 away from the first token, layer 3 brings it back."""
    model = tiny.hf_model(seed=2)
    layers = model.model.language_model.layers
    with torch.no_grad():
        model.model.language_model.embed_tokens.weight[1, 7] = 90.0
    lmm = vi.LMM(model, tiny.processor())

    def moved(by):
        def hook(_module, _args, output):
            out = output[0] if isinstance(output, tuple) else output
            if out.shape[1] > 1:
                out = out.clone()
                out[:, 0, 7] += by
            return (out, *output[1:]) if isinstance(output, tuple) else out

        return hook

    held = [layers[0].register_forward_hook(moved(0.0))]
    held += [layers[1].register_forward_hook(moved(-90.0))]
    held += [layers[2].register_forward_hook(moved(90.0))]
    try:
        report = vi.find_sink_dims(lmm)
    finally:
        for handle in held:
            handle.remove()
    assert report.dims == (7,)
    assert report.layers == (1, 3), "layer 2 has no sinks, and is left out"
    assert report.written == ((0, 1), (3, 3))
    assert "layers 0-1, 3-3" in str(report)


def test_controls_stand_beside_the_causal_check():
    """By hand: the same interventions, as hooks on plain transformers."""
    lmm, report = planted(), planted().sink_report
    found = report.causal
    assert (found.before, found.zeroed) == (report.bos_mass, report.bos_mass_clamped)
    encoding = lmm.encode(_plain_image(), PROMPTS[0])
    layers = lmm.hf_model.model.language_model.layers
    model = lmm.hf_model
    kept = model.config._attn_implementation
    # Which dimensions, what they become if not the median of the others, whether the norm does too.
    interventions = {
        "before": ((), None, False),
        "zeroed": (DIMS, 0.0, False),
        "ordinary": (DIMS, None, False),
        "rescaled": (DIMS, None, True),
        "random": (_random_dims(report.spectrum, DIMS), None, False),
        "norm_only": ((), None, True),
    }
    for name, (dims, fixed, rescale) in interventions.items():

        def change(_module, args, kwargs, *, dims=dims, fixed=fixed, rescale=rescale):
            x = (args[0] if args else kwargs["hidden_states"]).clone()
            medians = x[:, 1:][..., list(dims)].median(1).values
            x[:, 0, list(dims)] = medians if fixed is None else torch.full_like(medians, fixed)
            if rescale:
                x[:, 0] *= x[:, 1:].norm(dim=-1).median() / x[:, 0].norm()
            return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})

        held = [
            layers[layer].register_forward_pre_hook(change, with_kwargs=True) for layer in (1, 2, 3)
        ]
        model.set_attn_implementation("eager")
        try:
            with torch.no_grad():
                out = model(**encoding.inputs, output_attentions=True)
        finally:
            model.set_attn_implementation(kept)
            for handle in held:
                handle.remove()
        rows = lmm.run(encoding, graph=(probe := FirstTokenMass(layers=(1,))))[probe].values.shape
        mass = torch.stack([out.attentions[layer][0, :, -rows[-1] :, 0] for layer in (1, 2, 3)])
        assert getattr(found, name) == pytest.approx(float(mass.mean()), abs=1e-5), name


def test_the_random_dimensions_are_large_others():
    spectrum = torch.rand(64, generator=torch.Generator().manual_seed(0))
    large = set(spectrum.index_fill(0, torch.tensor(DIMS), 0).topk(32).indices.tolist())
    drawn = _random_dims(spectrum, DIMS)
    assert len(set(drawn)) == 2
    assert set(drawn) <= large
    narrow = _random_dims(spectrum[:9], (7, 3, 1, 5, 8))
    assert set(narrow) == {0, 2, 4, 6}, "no more than there are"


@pytest.mark.parametrize(
    ("values", "passes"),
    [
        ((0.5, 0.1, 0.1, 0.1, 0.5, 0.5), ("zeroed", "ordinary", "rescaled")),
        ((0.41, 0.61, 0.6, 0.03, 0.4, 0.4), ("rescaled",)),
        ((0.5, 0.1, 0.1, 0.1, 0.1, 0.1), ()),
        ((0.5, 0.4, 0.4, 0.4, 0.5, 0.5), ()),
        ((0.5, 0.25, 0.25, 0.26, 0.4, 0.5), ("zeroed", "ordinary")),
        ((0.5, 0.26, 0.1, 0.25, 0.39, 0.4), ("rescaled",)),
        ((0.4, 0.4, 0.4, 0.4, 0.4, 0.4), ()),
    ],
)
def test_a_check_passes_if_its_control_does_nothing(values, passes):
    found = CausalCheck(*values)
    assert found.passes == passes
    assert ("RMSNorm" in str(found)) == (values[1] >= values[0])
    assert f"checks passed: {', '.join(passes) or 'none'}" in str(found)


class Told:
    """A model of which the stream of the first token is told, for each prompt."""

    def __init__(self, firsts):
        self.firsts = firsts

    def layers_with(self, hook):
        del hook
        return (0, 1, 2, 3)

    def run(self, image, prompt, graph):
        del image
        first = torch.tensor(self.firsts[prompt])
        stream = torch.stack([first, *[torch.ones_like(first)] * 3]).expand(3, 1, 4, -1)
        return Recorded(stream if isinstance(graph, Resid) else torch.ones(4, 1, 4))


class Recorded:
    """A run whose every record holds the same."""

    model = "told"

    def __init__(self, values):
        self.values = values

    def __getitem__(self, probe):
        return self


def test_a_dimension_counts_if_it_is_large_in_every_prompt():
    both, one = [1.0, 1, 1, 10, 1, 10, 1, 1], [1.0, 1, 1, 10, 1, 1, 1, 1]
    report = vi.find_sink_dims(
        Told({"a": both, "b": one}), prompts=("a", "b"), images=(tiny.image(),)
    )
    assert report.dims == (3,)
    assert report.spectrum[5] == pytest.approx(np.sqrt(8 / 107))


def test_no_layer_is_left_out_where_a_dimension_is_large_in_all():
    """Though another is larger in all but one of them."""
    part = torch.tensor([[0.2, 0.6, 0.0, 0.0], [0.2, 0.6, 0.0, 0.0], [0.2, 0.0, 0.0, 0.0]])
    assert _written((4 * part).sqrt(), 0.1) == [0, 1, 2]
    assert _written((4 * part).sqrt(), 0.3) == [0, 1]
    assert _written((4 * part[1:]).sqrt(), 0.3) == [0, 1], "of two, neither is the odd one"


def test_a_dimension_that_holds_exactly_the_share_is_one():
    told = Told({"a": [2.0] * 4})
    report = vi.find_sink_dims(told, prompts=("a",), images=(tiny.image(),), share=0.25)
    assert report.dims == (0, 1, 2, 3)


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
