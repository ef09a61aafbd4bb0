"""English that SmolLM2 wrote itself: trained on now and then, it keeps the LM's English."""

from typing import Any, Final

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import LlamaForCausalLM, LlamaModel, PreTrainedTokenizerFast

LENGTH: Final = 96
SUBJECTS: Final = (
    "the sea", "a small town", "how bread is made", "the history of writing", "birds in winter",
    "a friend who moved away", "why the sky is blue", "learning to cook", "a walk in the forest",
    "how computers work", "the moon", "a difficult decision", "music", "an old house", "rivers",
    "good teachers",
)  # fmt: skip


@torch.no_grad()
def write_prose(
    model: LlamaModel, tokenizer: PreTrainedTokenizerFast, *, rounds: int = 2
) -> Int[Tensor, "sample token"]:
    """Sample answers of the frozen LM to plain requests; the same every time."""
    torch.manual_seed(0)
    speaker: Any = LlamaForCausalLM(model.config)
    speaker.model, speaker.lm_head.weight = model, model.embed_tokens.weight
    texts = [
        f"<|im_start|>user\nWrite about {subject}.<|im_end|>\n<|im_start|>assistant\n"
        for subject in SUBJECTS
    ]
    made = []
    for _ in range(rounds):
        inputs = tokenizer(texts, return_tensors="pt", padding=True)
        out = speaker.generate(
            **inputs, do_sample=True, min_new_tokens=LENGTH, max_new_tokens=LENGTH
        )
        made.append(out[:, -LENGTH:])
    return torch.cat(made)
