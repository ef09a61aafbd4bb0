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
