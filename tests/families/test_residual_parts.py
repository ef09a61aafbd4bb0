"""What a layer adds, where its norms stand behind its parts or a multiplier scales them."""

from functools import cache

import pytest
import torch

import vsink_interp as vi
from tests.families.decoders import around, opened
from tests.families.test_families import NEAR, PROMPTS, apart, logits
from tests.lacking import OLDEST
from vsink_interp.probes import Activation

DECODERS = {
    "olmo2": {},
    "exaone4": {"sliding_window": None, "layer_types": ["full_attention"] * 4},
    "granite": {"residual_multiplier": 0.22},
}
LAYER = 2
PARTS = ("hook_attn_out", "hook_resid_mid", "hook_mlp_out", "attn.hook_result")

every_decoder = pytest.mark.parametrize("text", DECODERS)


@cache
def lmm(text):
    return opened(text, **DECODERS[text])


@cache
def encoded(text):
    return lmm(text).encode(*PROMPTS["one"])


def by_hand(text):
    """The parts of a layer, from hooks on the modules of plain transformers."""
    layer, kept = lmm(text).hooked.layers[LAYER], {}
    watched = {"attn": "self_attn.o_proj", "mlp": "mlp"}
    if text != "granite":
        watched = {"attn": "post_attention_layernorm", "mlp": "post_feedforward_layernorm"}
    hooks = [
        layer.get_submodule(path).register_forward_hook(
            lambda *seen, name=name: kept.__setitem__(name, seen[2].detach().clone())
        )
        for name, path in watched.items()
    ]
    hooks.append(
        layer.register_forward_hook(
            lambda *seen: kept.update(pre=seen[1][0].clone(), post=seen[2].detach().clone())
        )
    )
    logits(lmm(text).hf_model, encoded(text))
    for hook in hooks:
        hook.remove()
    scale = DECODERS[text].get("residual_multiplier", 1.0)
    return {**kept, "attn": kept["attn"] * scale, "mlp": kept["mlp"] * scale}


@every_decoder
def test_the_parts_are_what_is_added(text):
    probes = {name: Activation(name, LAYER) for name in PARTS}
    run = lmm(text).run(encoded(text), graph=vi.EditGraph(*probes.values()))
    found = {name: run[probe].values[0] for name, probe in probes.items()}
    want = by_hand(text)
    assert apart(want["pre"] + want["attn"] + want["mlp"], want["post"]) < NEAR
    assert apart(found["hook_attn_out"], want["attn"]) < NEAR
    assert apart(found["hook_resid_mid"], want["pre"] + want["attn"]) < NEAR
    assert apart(found["hook_mlp_out"], want["mlp"]) < NEAR
    if text == "granite":  # elsewhere a norm stands behind the heads
        assert apart(found["attn.hook_result"].sum(2), want["attn"]) < NEAR


def test_what_a_key_adds_is_scaled_as_its_layer_scales_it():
    model, layer = lmm("granite"), lmm("granite").hooked.layers[LAYER]
    added = vi.probes.Contribution(layers=LAYER)
    pattern, value = Activation("attn.hook_pattern", LAYER), Activation("attn.hook_v", LAYER)
    run = model.run(encoded("granite"), graph=added | pattern | value)
    pattern, value = (run[probe].values[0, 0].double() for probe in (pattern, value))
    weight = layer.self_attn.o_proj.weight.detach().double()
    parts = weight.view(len(weight), len(pattern), -1).unbind(1)
    shared = len(pattern) // value.shape[1]
    norms = [(value[:, head // shared] @ part.T).norm(dim=-1) for head, part in enumerate(parts)]
    want = 0.22 * (pattern * torch.stack(norms)[:, None]).mean(0)
    rows = list(run[added].labels("query"))
    assert apart(run[added].values[0, 0].double(), want[rows]) < 1e-5


@pytest.mark.parametrize("part", ["hook_attn_out", "hook_resid_mid", "hook_mlp_out"])
@every_decoder
def test_what_is_written_is_what_is_added(text, part):
    """A part moved by some amount moves the end of its layer so, the MLP aside."""
    step = torch.linspace(-1.0, 1.0, 64)

    def nothing(value, hook=None):
        del hook
        return 0.0 * value

    def moved(value, hook=None):
        del hook
        return value + step

    end = Activation("hook_resid_post", LAYER)
    still = vi.Fn("hook_mlp_out", nothing, layers=LAYER)
    move = vi.Fn(part, moved, layers=LAYER)
    graph = move if part == "hook_mlp_out" else still | move
    base = vi.EditGraph() if part == "hook_mlp_out" else still
    before, after = (
        lmm(text).run(encoded(text), graph=edits | end)[end].values for edits in (base | end, graph)
    )
    assert apart(after - before, step.expand_as(after)) < NEAR


def test_contribution_and_attribution_count_the_multiplier():
    model, encoding = lmm("granite"), encoded("granite")
    direction = tuple(torch.linspace(-1, 1, 64).tolist())
    probes = (
        vi.probes.LogitAttribution("all", LAYER, direction=direction, groups=("all",)),
        Activation("attn.hook_result", LAYER),
    )
    run = model.run(encoding, graph=vi.EditGraph(*probes))
    heads = run[probes[1]].values[0] @ torch.tensor(direction)
    assert apart(run[probes[0]].values[0].sum(-1), heads.transpose(1, 2)) < NEAR
    assert heads.abs().max() > 0.1


@every_decoder
def test_they_open_with_their_self_check(text):
    assert not opened(text, check=True, **DECODERS[text]).hooked.failed
    assert {f"blocks.{{layer}}.{name}" for name in PARTS} <= set(lmm(text).hooks)


def test_a_layer_whose_parts_do_not_add_up_is_found():
    """A multiplier that the form does not know, and that the small copy does not have."""
    model, processor = around("llama")
    plain = type(model.model.language_model.layers[0])

    class Scaled(plain):
        def forward(self, *args, **kwargs):
            return 0.7 * plain.forward(self, *args, **kwargs)

    for layer in model.model.language_model.layers:
        layer.__class__ = Scaled
    lmm = vi.LMM(model, processor)
    assert set(lmm.hooked.failed) == {"blocks.{layer}.hook_mlp_out"}
    assert "not the sum of its parts" in lmm.hooked.failed["blocks.{layer}.hook_mlp_out"]
    assert lmm.capabilities.failed == lmm.hooked.failed
    with pytest.raises(vi.CapabilityError, match="not the sum of its parts"):
        lmm.run(lmm.encode(*PROMPTS["one"]), graph=Activation("hook_mlp_out"))


def test_a_value_that_is_not_all_that_the_model_goes_on_with_is_found():
    """An output projection that is no linear map: what heads add is not told by its weight."""
    model, processor = around("llama")
    plain = torch.nn.Linear

    class Bent(plain):
        def forward(self, value):
            return plain.forward(self, value) + 0.3 * value.abs()

    for layer in model.model.language_model.layers:
        layer.self_attn.o_proj.__class__ = Bent
    lmm = vi.LMM(model, processor)
    assert set(lmm.hooked.failed) == {"blocks.{layer}.attn.hook_result"}


def test_a_cap_that_the_model_leaves_out_is_left_out():
    """Gemma 2's language model caps its logits; LLaVA around it does not."""
    model = opened("gemma2", attention="eager", head_dim=16, final_logit_softcapping=0.5)
    encoding = model.encode(*PROMPTS["one"])
    theirs = logits(model.hf_model, encoding)
    assert theirs.abs().max() > 0.5
    assert vi.readout(model).softcap is None
    probe = vi.probes.TokenProbability("all", 3, tokens=(7,))
    share = model.run(encoding, graph=probe)[probe].values[0, ..., 0]
    assert apart(share, theirs.softmax(-1)[..., 7]) < 1e-5


def test_a_cap_that_the_model_applies_is_applied():
    model = opened(
        "gemma2", "PaliGemma", attention="eager", head_dim=16, final_logit_softcapping=0.5
    )
    encoding = model.encode(*PROMPTS["one"])
    theirs = logits(model.hf_model, encoding)
    assert theirs.abs().max() > 0.3
    # transformers 5.18 leaves the cap out of PaliGemma, later ones apply it.
    capped = bool(theirs.abs().max() <= 0.5)
    assert vi.readout(model).softcap == (0.5 if capped else None)
    assert capped or OLDEST
    probe = vi.probes.TokenProbability("all", 3, tokens=(7,))
    share = model.run(encoding, graph=probe)[probe].values[0, ..., 0]
    assert apart(share, theirs.softmax(-1)[..., 7]) < 1e-5


def test_a_value_that_is_scaled_behind_its_module_is_not_written_in_place():
    """It would be lost: what is handed out is a product."""
    model = lmm("granite")
    with (
        pytest.raises(vi.CapabilityError, match="writing it in place would be lost"),
        model.trace(encoded("granite")),
    ):
        model.hook("blocks.2.hook_attn_out")[...] = 0.0


def test_a_layer_that_attends_twice_is_refused_by_name():
    """DiffLlama subtracts one pattern from another; there is no one pattern of a layer."""
    model = opened("diffllama")
    encoding = model.encode(*PROMPTS["one"])
    for graph in (vi.Knockout("image -> query"), vi.probes.Pattern()):
        with pytest.raises(vi.CapabilityError, match="attends more than once in layer 0"):
            model.run(encoding, graph=graph)
    assert torch.equal(model.run(encoding).logits, logits(model.hf_model, encoding))


def test_what_heads_add_is_refused_where_their_projection_is_not_found():
    model = opened("phi")
    encoding = model.encode(*PROMPTS["one"])
    with pytest.raises(vi.CapabilityError, match="what a head adds is not known here"):
        model.run(encoding, graph=vi.probes.Contribution())


def test_heads_that_are_normed_before_they_are_projected_are_not_split_by_the_pattern():
    """BitNet: values and output weights do not say what a key adds."""
    model = opened("bitnet", check=True)
    encoding = model.encode(*PROMPTS["one"])
    with pytest.raises(vi.CapabilityError, match="changes its heads between"):
        model.run(encoding, graph=vi.probes.Contribution())
    assert model.run(encoding, graph=vi.Knockout("image -> query")).logits.isfinite().all()
    lmm("olmo2").run(encoded("olmo2"), graph=vi.probes.Contribution())
