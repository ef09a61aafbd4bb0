"""What people wrap around a model."""

import peft
import pytest
import torch
from torch import nn

import vsink_interp as vi
from tests import nodes, tiny


def _lora(model):
    return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"])).eval()


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        lambda model: torch.compile(model, backend="eager"),
        lambda model: nn.DataParallel(_lora(model)),
    ],
)
def test_the_model_inside_is_opened(wrap):
    model = tiny.hf_model()
    lmm = vi.LMM(wrap(model), tiny.processor(), sinks=tiny.SINKS, check=False)
    assert lmm.hf_model is model
    graph = vi.Knockout("image -> query")
    ours = lmm.run(tiny.encode(), graph=graph).logits
    # A new LoRA adds nothing yet.
    assert nodes.apart(ours, tiny.lmm().run(tiny.encode(), graph=graph).logits) < 1e-5


def test_an_adapter_counts():
    model = peft.get_peft_model(
        tiny.hf_model(), peft.LoraConfig(target_modules=["v_proj"], init_lora_weights=False)
    ).eval()
    lmm = vi.LMM(model, tiny.processor(), check=False)
    with torch.no_grad():
        wanted = model(**tiny.encode().inputs).logits
    assert torch.equal(lmm.run(tiny.encode()).logits, wanted)
    assert nodes.apart(wanted, tiny.plain(tiny.lmm(), tiny.encode())) > 0.1


def test_a_prompt_that_was_learnt_is_refused():
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    config.num_layers, config.token_dim, config.num_attention_heads = 4, 64, 4
    model = peft.get_peft_model(tiny.hf_model(), config).eval()
    with pytest.raises(vi.CapabilityError, match=r"'default' \(PROMPT_TUNING\) acts outside"):
        vi.LMM(model, tiny.processor(), check=False)


@pytest.mark.parametrize("hook", ["attn.hook_q", "attn.hook_result", "unembed.hook_out"])
def test_an_adapter_that_comes_after_opening_is_noticed(hook):
    """The old module goes on running inside the new one, and would be watched."""
    lmm, encoding = tiny.fresh(), tiny.encode()
    targets = ["q_proj", "o_proj", "lm_head"]
    peft.get_peft_model(
        lmm.hf_model, peft.LoraConfig(target_modules=targets, init_lora_weights=False)
    ).eval()
    probe = vi.probes.Activation(hook)
    for graph in (probe, vi.Fn(hook, nodes.grow)):
        with pytest.raises(vi.CapabilityError, match=r"not the module that it was.*open the model"):
            lmm.run(encoding, graph=graph)
    with pytest.raises(vi.CapabilityError, match="not the module"), lmm.trace(encoding):
        lmm.hook("blocks.1.attn.hook_q").save()
    anew = vi.LMM(lmm.hf_model, lmm.processor, sinks=tiny.SINKS, check=False)
    seen = []
    module = lmm.hf_model.get_submodule(anew.hooked.family.tap(probe.point.template, 1).module)
    module.register_forward_hook(lambda *given: seen.append(given[2].detach()))
    run = anew.run(encoding, graph=probe)
    found = run[probe].values if hook.startswith("unembed") else run[probe].values[1]
    if hook.endswith("result"):
        found = found.sum(-2)  # LLaMA's projections have no bias
    made = next(one for one in seen if one.shape[1] == encoding.layout.length)
    assert nodes.apart(found.reshape(made.shape), made) < 1e-5


def test_what_needs_no_replaced_module_goes_on_with_an_adapter():
    lmm, encoding = tiny.fresh(), tiny.encode()
    peft.get_peft_model(
        lmm.hf_model, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    ).eval()
    anew = vi.LMM(lmm.hf_model, lmm.processor, sinks=tiny.SINKS, check=False)
    runs = [one.run(encoding, graph=vi.Knockout("image -> query")) for one in (lmm, anew)]
    assert torch.equal(runs[0].logits, runs[1].logits)
