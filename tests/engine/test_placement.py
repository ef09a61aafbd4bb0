"""Models whose weights accelerate moves, that are quantised or adapted: the same numbers."""

from functools import cache

import accelerate
import peft
import pytest
import torch
from torch import nn
from transformers import BitsAndBytesConfig

import vsink_interp as vi
from tests import nodes, tiny
from tests.engine.test_linear_map import Int8
from vsink_interp.integrations.lens_model import LensModel
from vsink_interp.model import identities
from vsink_interp.probes import Activation, Contribution

RESULT, OUT = Activation("attn.hook_result"), Activation("hook_attn_out")
OFFLOADED = ("offloaded", "on disk", "tower on disk")


def _places(away):
    parts = ("embed_tokens", "norm", "rotary_emb", *(f"layers.{i}" for i in range(tiny.LAYERS)))
    names = [f"model.language_model.{part}" for part in parts]
    names += ["model.vision_tower", "model.multi_modal_projector", "lm_head"]
    return {name: "disk" if away in name else "cpu" for name in names}


def _spread(folder, away):
    return accelerate.dispatch_model(
        tiny.hf_model(), _places(away), main_device="cpu", offload_dir=str(folder)
    )


def _replace(model, kind):
    for name, module in list(model.model.language_model.named_modules()):
        if type(module) is nn.Linear:
            parent, _, last = name.rpartition(".")
            setattr(model.model.language_model.get_submodule(parent), last, kind(module))
    model.lm_head = kind(model.lm_head)
    return model


def _adapted():
    config = peft.LoraConfig(
        r=4, target_modules=["o_proj", "down_proj", "lm_head"], init_lora_weights=False
    )
    torch.manual_seed(5)
    return peft.get_peft_model(tiny.hf_model(), config).eval()


@cache
def opened(kind, folder=None):
    if kind == "offloaded":
        model = accelerate.cpu_offload(tiny.hf_model(), execution_device=torch.device("cpu"))
    elif kind in OFFLOADED:
        model = _spread(folder, "vision_tower" if kind == "tower on disk" else "layers")
    elif kind == "8 bits":
        model = _replace(tiny.hf_model(), Int8)
    elif kind == "adapted":
        model = _adapted()
    return vi.LMM(model, tiny.processor(), sinks=tiny.SINKS, check=False)


KINDS = (*OFFLOADED, "8 bits", "adapted")


@pytest.fixture(params=KINDS)
def lmm(request, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / request.param.replace(" ", "_")
    return opened(request.param, folder)


def test_without_edits_it_is_transformers(lmm):
    encoding = lmm.encode(*tiny.PROMPTS["one image"])
    assert lmm.hooked.device.type == "cpu"
    assert torch.equal(lmm.run(encoding, graph=RESULT | Contribution()).logits,
                       tiny.plain(lmm, encoding))  # fmt: skip
    ids = lmm.hf_model.generate(**encoding.inputs, max_new_tokens=3, do_sample=False)
    assert torch.equal(lmm.generate(encoding, max_new_tokens=3).ids, ids)


def test_heads_add_up_to_what_attention_adds(lmm):
    run = lmm.run(tiny.encode(), graph=RESULT | OUT)
    # Inputs of 8-bit layers are rounded, which belongs to no head.
    near = 0.05 if isinstance(lmm.hf_model.lm_head, Int8) else 1e-5
    whole = run[OUT].values
    assert float(whole.abs().max()) > 1
    assert nodes.apart(run[RESULT].values.sum(-2), whole) < near


def test_writing_what_was_there_changes_nothing(lmm):
    same = vi.Fn("attn.hook_result", lambda value, _: value.clone())
    halved = vi.Fn("attn.hook_result", lambda value, _: value / 2)
    plain = lmm.run(tiny.encode()).logits
    assert nodes.apart(lmm.run(tiny.encode(), graph=same).logits, plain) < 1e-5
    assert nodes.apart(lmm.run(tiny.encode(), graph=halved).logits, plain) > 0.1


def test_a_direction_gives_the_logit(lmm):
    last = Activation("hook_resid_post", layers=tiny.LAYERS - 1)
    run, read = lmm.run(tiny.encode(), graph=last), vi.readout(lmm)
    resid = run[last].values[0]
    ours = (resid / read.scale(resid)) @ read.direction("red") + read.offset("red")
    near = 0.2 if isinstance(lmm.hf_model.lm_head, Int8) else 1e-5
    assert nodes.apart(ours, run.logits[..., read.token("red")]) < near


MASS = vi.probes.SegmentMass()
CUT = vi.Knockout("image -> query generated", "1:") | MASS
VARIED = vi.VAR(p=0.6, rho=0.5, min_image_mass=0.1) | MASS


def agree(lmm, plain, graph):
    """Two models give the same answer and shares under a graph, and another without it."""
    ours, theirs = (
        it.generate(tiny.encode(), graph=graph, max_new_tokens=3) for it in (lmm, plain)
    )
    assert torch.equal(ours.ids, theirs.ids)
    assert nodes.apart(ours.logits, theirs.logits) < 1e-5
    assert nodes.apart(ours[MASS].values, theirs[MASS].values) < 1e-5
    untouched = plain.generate(tiny.encode(), max_new_tokens=3).logits[:, 0]
    assert nodes.apart(ours.logits[:, 0], untouched) > 0.01


@pytest.mark.parametrize("kind", OFFLOADED)
def test_offloaded_weights_are_cut_as_plain_ones(kind, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / kind.replace(" ", "_")
    agree(opened(kind, folder), tiny.lmm(), CUT)


@pytest.mark.parametrize("graph", [CUT, VARIED])
def test_weights_in_four_bits_act_as_the_numbers_that_they_stand_for(graph, tmp_path):
    """Against a plain model of the weights that bitsandbytes itself unpacks."""
    bits = pytest.importorskip("bitsandbytes")
    tiny.hf_model().save_pretrained(tmp_path)
    tiny.processor().save_pretrained(tmp_path)
    config = BitsAndBytesConfig(load_in_4bit=True)
    lmm = vi.LMM.from_pretrained(tmp_path, device="cpu", quantization_config=config, check=False)
    lmm.sinks, packed = tiny.SINKS, dict(lmm.hf_model.named_modules())
    unpacked = tiny.hf_model()
    for name, module in unpacked.named_modules():
        if isinstance(packed[name], bits.nn.Linear4bit):
            weight = packed[name].weight
            plain = bits.functional.dequantize_4bit(weight.data, weight.quant_state)
            module.weight.data = plain.to(module.weight.dtype)
    agree(lmm, vi.LMM(unpacked, tiny.processor(), sinks=tiny.SINKS, check=False), graph)


@pytest.mark.parametrize("kind", OFFLOADED)
def test_offloaded_weights_give_what_plain_ones_give(kind, tmp_path_factory):
    lmm = opened(kind, tmp_path_factory.getbasetemp() / kind.replace(" ", "_"))
    graph = vi.VAR(p=0.6, rho=0.5, min_image_mass=0.1) | Contribution() | RESULT
    ours, plain = (it.generate(tiny.encode(), graph=graph, max_new_tokens=2)
                   for it in (lmm, tiny.lmm()))  # fmt: skip
    assert torch.equal(ours.ids, plain.ids)
    for probe in (Contribution(), RESULT):
        assert nodes.apart(ours[probe].values.nan_to_num(), plain[probe].values.nan_to_num()) < 1e-5
    with lmm.trace(*tiny.PROMPTS["one image"]):
        pattern = lmm.hook("blocks.1.attn.hook_pattern").save()
    assert float(pattern.detach().sum(-1).mean()) == pytest.approx(1)
    drawn = lmm.generate(tiny.encode(), max_new_tokens=3, do_sample=True, seed=3)
    assert torch.equal(
        drawn.ids,
        tiny.lmm().generate(tiny.encode(), max_new_tokens=3, do_sample=True, seed=3).ids,
    )


def test_identities_are_tried_with_weights_on_disk_as_well(monkeypatch, tmp_path):
    model = _spread(tmp_path, "layers")
    assert not vi.LMM(model, tiny.processor()).hooked.failed
    monkeypatch.setattr(identities, "parts_that_miss", lambda *_: {"hook_mlp_out": "they miss"})
    assert vi.LMM(model, tiny.processor()).hooked.failed == {"hook_mlp_out": "they miss"}


@pytest.mark.parametrize("bits", [8, 4])
def test_bitsandbytes_weights_open_by_their_own_switch(bits, tmp_path):
    pytest.importorskip("bitsandbytes")
    tiny.hf_model().save_pretrained(tmp_path)
    tiny.processor().save_pretrained(tmp_path)
    config = BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    lmm = vi.LMM.from_pretrained(tmp_path, device="cpu", quantization_config=config, check=False)
    encoding = lmm.encode(*tiny.PROMPTS["one image"])
    assert lmm.hooked.layers[1].self_attn.o_proj.weight.dtype in (torch.int8, torch.uint8)
    assert not identities.failed_here(lmm)
    run = lmm.run(encoding, graph=RESULT | OUT)
    assert torch.equal(run.logits, tiny.plain(lmm, encoding))
    # In 8 bits inputs are rounded as well, which belongs to no head.
    near = 0.05 if bits == 8 else 1e-5
    assert nodes.apart(run[RESULT].values.sum(-2), run[OUT].values) < near
    assert nodes.apart(run.logits, tiny.lmm().run(tiny.encode()).logits) > 1e-4


def test_a_device_map_is_handed_on(tmp_path):
    tiny.hf_model().save_pretrained(tmp_path)
    tiny.processor().save_pretrained(tmp_path)
    lmm = vi.LMM.from_pretrained(
        tmp_path, device_map=_places("layers.2"), offload_folder=tmp_path / "away", check=False
    )
    assert lmm.hooked.layers[2].self_attn.o_proj.weight.is_meta
    run, plain = (it.run(tiny.encode(), graph=RESULT) for it in (lmm, tiny.lmm()))
    assert nodes.apart(run[RESULT].values, plain[RESULT].values) < 1e-5


def test_a_transformer_lens_cache_is_given_what_an_adapter_adds():
    lmm = opened("adapted")
    layer = LensModel(lmm, vi.readout(lmm)).blocks[1]
    down = lmm.hf_model.model.language_model.layers[1].mlp.down_proj
    wanted = down.get_delta_weight("default") + down.base_layer.weight
    assert nodes.apart(layer.mlp.W_out, wanted.T) < 1e-5
    assert nodes.apart(layer.mlp.W_out, down.base_layer.weight.T) > 0.1


def test_the_heads_of_an_adapted_model_are_those_of_its_merged_weights():
    lmm = opened("adapted")
    attention = lmm.hf_model.model.language_model.layers[2].self_attn
    base, a, b = (
        attention.o_proj.base_layer,
        attention.o_proj.lora_A["default"],
        attention.o_proj.lora_B["default"],
    )
    seen = []
    handle = attention.o_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    tiny.plain(lmm, tiny.encode())
    handle.remove()
    config = attention.o_proj.scaling["default"]
    merged = base.weight + config * b.weight @ a.weight
    assert nodes.apart(merged, base.weight) > 0.1
    heads = merged.T.unflatten(0, (tiny.HEADS, -1))
    wanted = torch.einsum("bqhd,hdm->bqhm", seen[0].unflatten(-1, (tiny.HEADS, -1)), heads)
    found = lmm.run(tiny.encode(), graph=RESULT)[RESULT].values[2]
    assert nodes.apart(found, wanted) < 1e-5


def test_a_model_without_weights_has_no_readout():
    lmm = vi.LMM(tiny.hf_model().to("meta"), tiny.processor(), check=False)
    with pytest.raises(vi.CapabilityError, match="opened without weights"):
        vi.readout(lmm)
