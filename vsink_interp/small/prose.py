"""English that SmolLM2 wrote itself: held to on the way, it keeps the LM's English."""

from itertools import product
from typing import Any, Final

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import LlamaForCausalLM, LlamaModel, PreTrainedTokenizerFast

LENGTH: Final = 96
REQUESTS: Final = (
    "Write about {}.", "Explain {} to a child.", "Tell a short story about {}.",
    "Write a news report about {}.", "What do you know about {}?", "Write a letter about {}.",
)  # fmt: skip
SUBJECTS: Final = (
    "the sea", "a small town", "bread", "the history of writing", "birds in winter",
    "a friend who moved away", "the colour of the sky", "learning to cook", "a walk in the forest",
    "computers", "the moon", "a difficult decision", "music", "an old house", "rivers", "teachers",
    "a train journey", "money", "sleep", "the human heart", "a lost dog", "mountains", "elections",
    "volcanoes", "a wedding", "mathematics", "medicine", "football", "the desert", "libraries",
    "a job interview", "bees", "the Roman Empire", "electricity", "gardens", "a storm",
    "photography", "friendship", "bridges", "the future",
)  # fmt: skip


@torch.no_grad()
def write_prose(
    model: LlamaModel, tokenizer: PreTrainedTokenizerFast, *, rounds: int = 4, batch: int = 60
) -> Int[Tensor, "sample token"]:
    """Sample answers of the frozen LM to plain requests, every other one behind its request.

    The same every time on one machine.
    """
    torch.manual_seed(0)
    speaker: Any = LlamaForCausalLM(model.config)
    speaker.model, speaker.lm_head.weight = model, model.embed_tokens.weight
    texts = [
        f"<|im_start|>user\n{request.format(subject)}<|im_end|>\n<|im_start|>assistant\n"
        for subject, request in product(SUBJECTS, REQUESTS)
    ] * rounds
    made = []
    for first in range(0, len(texts), batch):
        inputs = tokenizer(texts[first : first + batch], return_tensors="pt", padding=True)
        out = speaker.generate(
            **inputs, do_sample=True, min_new_tokens=LENGTH, max_new_tokens=LENGTH
        )
        asked, pads = inputs.input_ids.shape[1], (inputs.attention_mask == 0).sum(1).tolist()
        starts = [pad if i % 2 else asked for i, pad in enumerate(pads)]
        made += [row[at : at + LENGTH] for row, at in zip(out, starts, strict=True)]
    return torch.stack(made)
