"""Tiny models with random weights, for checking a family in a second without downloads."""

import math
import warnings
from collections.abc import Mapping
from typing import Any, Final

import torch

SPECIAL: Final = ("<pad>", "<s>", "</s>", "<unk>")
WORDS: Final = tuple(
    "user assistant : you are a helpful friend what is the red blue green big small disc square "
    "left right on and with compare this to that now describe please count yes no ?".split()
)

TEXT: Final[Mapping[str, Any]] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
"""The sizes of a tiny decoder; `vocab_size` comes with the tokenizer."""

VISION: Final[Mapping[str, Any]] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
"""The sizes of a tiny vision tower."""


def tokenizer(*special: str, bos: bool = True, **named: Any) -> Any:
    """A whole-word tokenizer.

    **Arguments:**

    - `special`: special tokens besides padding, begin, end and unknown; the first gets id 4.
    - `bos`: whether a prompt begins with the begin token.
    - `named`: special tokens by the name that the processor knows them by, as in
        `image_token="<image>"`; they must be among `special`.
    """
    begin = {"bos_token": "<s>"} if bos else {}
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *special, *WORDS))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if bos:
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
        **begin,
        **{name: text for name, text in named.items() if name == "bos_token"},
        extra_special_tokens={n: text for n, text in named.items() if n != "bos_token"},
    )
    made.add_special_tokens({"additional_special_tokens": list(special)})
    return made


def like(config: Any, text: type, vision: type) -> Any | None:
    """A family's tiny configuration, around a language model of another class.

    None where the vision side is of another class: nothing tiny is known for it.
    """
    if type(getattr(config, "vision_config", None)) is not vision:
        return None
    own = config.get_text_config()
    if type(own) is not text:
        config.text_config = fill(text, **{**TEXT, "vocab_size": own.vocab_size})
    return config


def fill(kind: Any, *parts: Any, **fields: Any) -> Any:
    """Make a configuration or processor, whose fields vary between versions of transformers."""
    return kind(*parts, **fields)


def build(
    config: Any, attention: str = "sdpa", dtype: torch.dtype = torch.float32, seed: int = 0
) -> Any:
    """A model of a configuration with random weights, the same for the same seed.

    The weights have a large variance, so that attention is uneven and edits have visible effects.
    """
    from transformers import AutoModelForImageTextToText, GenerationConfig

    source = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config, attn_implementation=attention)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=source)
            if weight.ndim < 2:
                weight.add_(0.1 * noise)
            else:
                weight.copy_(1.5 * noise / math.sqrt(weight[0].numel()))
    model.generation_config = GenerationConfig(
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
        do_sample=False,
        suppress_tokens=list(range(config.get_text_config().vocab_size - len(WORDS))),
    )
    return _cast(model, dtype).eval()


def _cast(model: Any, dtype: torch.dtype) -> Any:
    """A model in a precision, complex frequencies (Llama 4's tower) as they were."""
    kept = {name: value for name, value in model.named_buffers() if value.is_complex()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Casting complex values to real")
        model = model.to(dtype)
    for name, value in kept.items():
        path, _, own = name.rpartition(".")
        setattr(model.get_submodule(path), own, value)
    return model
