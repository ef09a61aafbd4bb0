"""Final norm and unembedding make the model's own logits, on models that multiply or cap them."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig

import vsink_interp as vi
from tests.families.decoders import around
from tests.families.test_families import SINKS, TINY, apart, logits
from tests.lacking import OLDEST
from vsink_interp import experiments
from vsink_interp.families import family_of
from vsink_interp.families.tiny import TEXT, VISION, build
from vsink_interp.kernels import softcapped
from vsink_interp.model.identities import noise
from vsink_interp.probes import Logits, TokenProbability
from vsink_interp.remote.program_player import unembed

TOWER = {**VISION, "image_size": 42, "patch_size": 14}
QUERIES = {"model_type": "blip_2_qformer", "num_hidden_layers": 1, "cross_attention_frequency": 1}
SCALED = {
    "granite4_vision": {
        "text_config": {"logits_scaling": 8.0},
        "vision_config": {**TOWER, "model_type": "clip_vision_model", "hidden_size": 64},
        "qformer_config": {**QUERIES, "vocab_size": 4, "use_qformer_text_input": False},
        "image_token_index": 4,
        "downsample_rate": "1/3",
        "deepstack_layer_map": [(0, 0)],
        "spatial_target_layers": [0, 1, 2, 3],
    },
    "hyperclovax_vision_v2": {
        "text_config": {
            "logits_scaling": 0.2,
            "model_type": "hyperclovax",
            "use_post_norm": False,
        },
        "vision_config": TOWER,
        "image_token_id": 4,
    },
}
"""Multimodal models that multiply what their unembedding makes, by real class."""
AROUND = {
    "granite": ("LLaVA-1.5", {"logits_scaling": 8.0}),  # its own class would divide, LLaVA does not
    "cohere2": ("LLaVA-1.5", {"logit_scale": 0.25}),
    "gemma2": ("PaliGemma", {"attention": "eager", "head_dim": 16, "final_logit_softcapping": 0.5}),
}
"""Language models that would change their logits, inside other models, which do or do not."""
MODELS = (*SCALED, *AROUND)
TEXT_PROMPT = "describe the big blue square now ?"
WORD = 20


def scaled(name):
    fields = SCALED[name]
    config, processor = TINY["LLaVA-NeXT"].tiny()
    text = {**TEXT, "vocab_size": config.get_text_config().vocab_size, **fields["text_config"]}
    config = AutoConfig.for_model(name, **{**fields, "text_config": text})
    return build(config), processor


@cache
def lmm(name):
    if name in TINY:
        config, processor = TINY[name].tiny()
        model = build(config)
    elif name in SCALED:
        model, processor = scaled(name)
    else:
        family, sizes = AROUND[name]
        model, processor = around(name, family, **sizes)
    form = replace(family_of(model, processor), inferred=False)
    return vi.LMM(model, processor, family=form, sinks=SINKS, check=False)


@cache
def encoded(name):
    model = lmm(name)
    form = model.hooked.family
    image = noise() if form.sight == "cross-attention" or not form.text_alone else None
    return model.encode(image, TEXT_PROMPT)


@pytest.mark.filterwarnings("ignore:.*has a submodule named:UserWarning")
@pytest.mark.parametrize("name", [*TINY, *MODELS])
def test_the_last_layer_read_as_words_is_the_model_s_own_prediction(name):
    model, encoding = lmm(name), encoded(name)
    norm, entering = model.hf_model.get_submodule(f"{model.hooked.family.decoder}.norm"), []
    handle = norm.register_forward_pre_hook(lambda _, args: entering.append(args[0]))
    theirs = logits(model.hf_model, encoding)
    handle.remove()
    assert theirs.std() > 0.05
    near = 1e-5 * max(1.0, float(theirs.abs().max()))
    with torch.no_grad():
        assert apart(model.hooked.unembed(entering[0]), theirs) < near
    words = tuple(range(theirs.shape[-1]))
    probes = TokenProbability("all", -1, tokens=words), Logits("all")
    run = model.run(encoding, graph=vi.EditGraph(*probes))
    assert torch.equal(run.logits, theirs)
    assert apart(run[probes[0]].values[0], theirs.softmax(-1)) < 1e-5
    cap = model.hooked.softcap
    shown = run[probes[1]].values
    assert apart(shown if cap is None else cap * torch.tanh(shown / cap), theirs) < near


@pytest.mark.parametrize("name", [*SCALED, "granite"])
def test_a_logit_is_split_into_parts_of_the_model_s_own_logit(name):
    model, encoding = lmm(name), encoded(name)
    theirs = logits(model.hf_model, encoding)[0, -1]
    parts = experiments.logit_attribution(model, None, TEXT_PROMPT, WORD, against=9)
    want = float(theirs[WORD] - theirs[9])
    assert abs(want) > 0.05
    assert parts.total + parts.elsewhere == pytest.approx(want, abs=1e-4)
    assert parts.elsewhere == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("name", SCALED)
def test_contrast_is_of_the_model_s_own_logits(name):
    model, encoding = lmm(name), encoded(name)
    spoiled = model.encode(None, f"please count this {TEXT_PROMPT}")
    first, second = (logits(model.hf_model, one)[:, -1] for one in (encoding, spoiled))
    assert apart(first, second) > 0.1
    graph = vi.Contrast(prefix="please count this", beta=0.0)
    assert apart(model.run(encoding, graph=graph).logits[:, -1], 2 * first - second) < 1e-5


def test_contrast_is_refused_where_it_would_be_capped_once_more():
    model, graph = lmm("gemma2"), vi.Contrast(prefix="please")
    if OLDEST:  # it leaves the cap out of PaliGemma
        assert model.hooked.softcap is None
        plain, both = (model.run(encoded("gemma2"), graph=g).logits for g in (None, graph))
        assert apart(plain[:, -1], both[:, -1]) > 1e-3
        return
    with pytest.raises(vi.CapabilityError, match="caps its logits"):
        model.run(encoded("gemma2"), graph=graph)


@pytest.mark.parametrize("name", [*SCALED, "gemma2"])
def test_a_server_makes_the_same_logits(name):
    """The code that is sent, on the modules that it would find there."""
    model, encoding = lmm(name), encoded(name)
    hooked, entering = model.hooked, []
    norm = hooked.module("ln_final.hook_out")
    handle = norm.register_forward_pre_hook(lambda _, args: entering.append(args[0]))
    theirs = logits(model.hf_model, encoding)
    handle.remove()
    parts = {"norm": f"{hooked.family.decoder}.norm", "head": hooked.family.head}
    known = {"scale": hooked.family.logits_scale, "cap": hooked.softcap}
    modules = SimpleNamespace(get=model.hf_model.get_submodule)
    state = {"model": modules, "dtype": torch.float32}
    job = {"unembed": parts | known, "kernels": {"softcapped": softcapped}}
    with torch.no_grad():
        made = unembed(entering[0], job, state)
    assert apart(made, theirs) < 1e-5


def test_a_model_with_an_unknown_multiplier_has_no_lens():
    """It is noticed when the model is opened: nothing is read as words by a wrong formula."""
    model, processor = around("llama")

    class Tempered(type(model)):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * 3
            return output

    model.__class__ = Tempered
    opened = vi.LMM(model, processor, sinks=SINKS)
    encoding = opened.encode(None, TEXT_PROMPT)
    with pytest.raises(vi.CapabilityError, match="does not make its logits"):
        opened.run(encoding, graph=TokenProbability("all", -1, tokens=(WORD,)))
    with pytest.raises(vi.CapabilityError, match="does not make its logits"):
        vi.readout(opened)
    assert opened.run(encoding, graph=vi.Knockout("query -> query")).logits.isfinite().all()
