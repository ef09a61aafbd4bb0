"""English that SmolLM2 wrote itself: held to on the way, it keeps the LM's English."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LlamaForCausalLM, LlamaModel, PreTrainedTokenizerFast

from .decoder import Decoder
from .lora import FIRST_LAYER, Lora

TEXTS: Final = 3
"""The texts that a step reads."""
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


@dataclass(frozen=True, eq=False)
class Prose:
    """Texts, and what the frozen LM makes of them.

    **Attributes:**

    - `entering`: the residual that enters the first layer with updates.
    - `final`: the normalised final residual.
    - `entropy`: that of each next-token distribution, in nats.
    """

    ids: Int[Tensor, "text token"]
    entering: Float[Tensor, "text token d_model"]
    final: Float[Tensor, "text token d_model"]
    entropy: Float[Tensor, "text token"]

    @classmethod
    def of(cls, decoder: Decoder, ids: Int[Tensor, "text token"], pool: Executor) -> "Prose":
        """Read every text once, shared out among the pool's threads."""
        read = pool.map(partial(_frozen, decoder), ids.split(8))
        return cls(ids, *(torch.cat(some) for some in zip(*read, strict=True)))

    def drawn(self, step: int) -> Sequence[int]:
        """The numbers of the texts of a step."""
        rng = np.random.default_rng((step, 23))
        return rng.permutation(len(self.ids))[:TEXTS].tolist()

    def read(
        self, decoder: Decoder, texts: Int[Tensor, " text"], lora: Lora
    ) -> Float[Tensor, "text token d_model"]:
        """The normalised final residual of some texts with updates."""
        given = self.entering[texts]
        states = decoder.states(given, *_causal(self.ids[texts]), lora, first=FIRST_LAYER)
        return decoder.model.norm(states[-1])


@torch.no_grad()
def _frozen(decoder: Decoder, ids: Int[Tensor, "text token"]) -> tuple[Tensor, Tensor, Tensor]:
    model = decoder.model
    states = decoder.states(model.embed_tokens(ids), *_causal(ids))
    final = model.norm(states[-1])
    told = F.linear(final, model.embed_tokens.weight).softmax(-1)
    return states[FIRST_LAYER], final, torch.special.entr(told).sum(-1)


def _causal(ids: Int[Tensor, "text token"]) -> tuple[Tensor, Tensor]:
    """Positions and a causal mask."""
    tokens = ids.shape[1]
    mask = torch.ones(len(ids), tokens, tokens, dtype=torch.bool).tril()
    return torch.arange(tokens).expand_as(ids), mask
