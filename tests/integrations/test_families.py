"""Names, shapes and values of every family that TransformerLens opens, against its own."""

import warnings

import pytest
import torch

import vsink_interp as vi
from tests import nodes
from tests.families.test_families import SHOWN, TINY, encoded, lmm
from tests.integrations.conftest import boot, cached
from vsink_interp import integrations
from vsink_interp.families.tiny import build

TOLERANCE = 5e-5
DELEGATED = {"GLM-4.1V", "Gemma 4", "Llama 4", "Qwen2.5-VL", "Qwen3-VL"}
"""Families whose attention TransformerLens leaves to transformers, reading a copy beside it."""
WHOLE_TOWER = {"GLM-4.1V", "Gemma 4", "Llama 4", "Mistral 3"}
"""Families whose vision encoder has no layers there."""
HEADS_FIRST = {"Gemma 3", "Qwen3.5"}
"""Families where they show queries and keys behind their norm with heads in front of tokens."""
GATED = {"Qwen3.5"}
"""Families whose queries come with a gate beside them: hook_q of theirs holds both."""
NORMED_VALUES = {"Gemma 4"}
"""Families whose values are normed: ours are what attention weighs, theirs what comes before."""
SCALE, END = ".hook_scale", ".hook_resid_post"
"""What it does not show of that family's norms, and where the last one reads."""
LINEAR = "linear_attn.hook_out"
"""Their name of what linear attention adds."""
NEURONS = "mlp.hook_post"
"""What its vision layers have in no family that is known."""
CENTRED = {"Aya Vision", "Cohere2 Vision"}
"""Families whose norm takes the mean away first, so that logits are not split into parts."""
UNADDED = {"Gemma 4", "Llama 4"}
"""Families of which not every layer has a hook point for what its MLP adds."""
ABSENT = ("attn.hook_rot_q", "attn.hook_rot_k", "attn.hook_result")
"""What it has no hook point for there."""


UNOPENED = {
    "Aya Vision", "Cohere2 Vision", "InternVL", "Mllama", "Ovis2", "PaliGemma", "Qwen2-VL",
    "SmolVLM", "Video-LLaVA", "VipLLaVA",
}  # fmt: skip
"""Families that it has no adapter for."""
OPENED = [name for name in TINY if name not in UNOPENED]


@pytest.mark.parametrize("name", TINY)
def test_which_families_it_opens(name):
    factory = pytest.importorskip("transformer_lens.factories.architecture_adapter_factory")
    config, _ = TINY[name].tiny()
    kind = type(build(config, "eager", torch.float32)).__name__
    assert (kind in factory.SUPPORTED_ARCHITECTURES) == (name in OPENED)


def theirs_of(cache, family, name):
    """Their entry of one of our names; None if there is none."""
    if family in HEADS_FIRST and "_norm." in name:
        return cache[name].transpose(1, 2)
    if family in NORMED_VALUES and name.endswith("attn.hook_v"):
        values = cache[name]
        return values * torch.rsqrt(values.square().mean(-1, keepdim=True) + 1e-6)
    if family in NORMED_VALUES and name.endswith(SCALE):
        assert name not in cache.cache_dict, f"{name}: compare it"
        return rms_of(cache, name)
    if family in GATED and name.endswith("attn.hook_q"):
        found = cache[name.replace("hook_q", "q_norm.hook_in")].transpose(1, 2)
        assert cache[name].numel() == 2 * found.numel()
        return found
    if name.endswith("hook_attn_out") and name.replace("hook_attn_out", LINEAR) in cache.cache_dict:
        name = name.replace("hook_attn_out", LINEAR)
    spelled = name.replace("vision_encoder.blocks", "vision_encoder.encoder_layers")
    found = cache.cache_dict.get(spelled, cache.cache_dict.get(name))
    return found[None] if found is not None and packed(name, found) else found


def rms_of(cache, name):
    """What a norm divides by, of the residual stream that they show before it."""
    norm, last = (
        name.removesuffix(SCALE),
        max(k for k in cache.cache_dict if k.startswith("blocks.") and k.endswith(END)),
    )
    before = {"ln1": "hook_resid_pre", "ln2": "hook_resid_mid"}.get(norm.rpartition(".")[2])
    resid = cache[f"{norm.rpartition('.')[0]}.{before}" if before else last]
    return torch.sqrt(resid.square().mean(-1, keepdim=True) + 1e-6)


def packed(name, value):
    """Whether they show the patches of all images without a leading axis."""
    return name.startswith("vision") and value.ndim == 2


@pytest.mark.parametrize("name", OPENED)
def test_names_shapes_and_values_are_transformer_lens_s(name, tmp_path):
    pytest.importorskip("transformer_lens")
    config, processor = TINY[name].tiny()
    hf_model = build(config, "eager", torch.float32)
    saved = processor if hasattr(processor, "save_pretrained") else processor.tokenizer
    bridge = boot(hf_model, tmp_path, saved)
    if name not in DELEGATED:
        bridge.set_use_attn_result(True)
    logits, theirs = cached(bridge, encoded(name, "one"))
    model = lmm(name, "eager")
    assert nodes.apart(model.run(encoded(name, "one")).logits, logits) < TOLERANCE
    _, ours = integrations.run_with_cache(model, encoded(name, "one"), names_filter=bool)
    compared = 0
    for key, mine in ours.cache_dict.items():
        other = theirs_of(theirs, name, key)
        if key == "hook_embed":
            continue  # ours is what enters layer 0
        if other is None and key.startswith("vision") and key.endswith(NEURONS):
            continue
        if name in WHOLE_TOWER and key.startswith("vision_encoder.blocks"):
            assert other is None, f"{key}: take {name} out of WHOLE_TOWER"
            continue
        if name in DELEGATED and key.endswith(ABSENT):
            assert other is None, f"{key}: take it out of ABSENT"
            continue
        if name in DELEGATED and key.endswith("attn_scores"):
            assert torch.equal(other, theirs[key.replace("attn_scores", "pattern")])
            continue
        assert other is not None, key
        assert mine.shape == other.shape, key
        hidden = mine.isneginf()
        if hidden.any():
            assert torch.equal(hidden, other <= torch.finfo(other.dtype).min), key
        apart = nodes.apart(mine.masked_fill(hidden, 0), other.masked_fill(hidden, 0))
        assert apart < TOLERANCE, key
        compared += 1
    assert compared > 40


@pytest.mark.parametrize("name", SHOWN)
def test_parts_of_every_family_sum_to_its_logits(name):
    """Families whose streams are more than attention and MLPs (DeepStack) are told by the test."""
    pytest.importorskip("transformer_lens")
    model = lmm(name)
    if name in CENTRED:
        with pytest.raises(vi.CapabilityError, match="not an RMS norm"):
            integrations.run_with_cache(model, encoded(name, "one"))
        return
    logits, cache = integrations.run_with_cache(model, encoded(name, "one"))
    if name in UNADDED:
        with pytest.raises(KeyError, match=r"blocks\.\d\.hook_mlp_out"):
            cache.decompose_resid()
        return
    parts = cache.logit_attrs(cache.decompose_resid(), 7).sum(0)
    tolerance = 1e-3 * float(logits.abs().max())
    if name == "Qwen3-VL":
        image = encoded(name, "one").layout.mask("image")
        assert float((parts - logits[..., 7])[image].abs().max()) > tolerance, "DeepStack"
        parts, logits = parts[~image], logits[~image]
    assert nodes.apart(parts, logits[..., 7]) < tolerance


@pytest.mark.parametrize("hook", ["attn.hook_q", "attn.hook_k"])
@pytest.mark.parametrize("name", ["Gemma 3", "Qwen3-VL"])
def test_a_hook_function_before_the_norm_acts_as_theirs(name, hook, tmp_path):
    pytest.importorskip("transformer_lens")
    config, processor = TINY[name].tiny()
    hf_model = build(config, "eager", torch.float32)
    saved = processor if hasattr(processor, "save_pretrained") else processor.tokenizer
    bridge, given = boot(hf_model, tmp_path, saved), dict(encoded(name, "one").inputs)

    def turn(value, hook):
        del hook
        return torch.cat([3.0 * value[:, :, :1].roll(1, -1), value[:, :, 1:]], 2)

    ids = given.pop("input_ids")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = bridge.run_with_hooks(ids, fwd_hooks=[(f"blocks.1.{hook}", turn)], **given)
    model, edit = lmm(name, "eager"), vi.Fn(hook, turn, layers=1)
    run = model.run(encoded(name, "one"), graph=edit)
    assert nodes.apart(run.logits, model.run(encoded(name, "one")).logits) > 1e-3
    assert nodes.apart(run.logits, theirs) < TOLERANCE
