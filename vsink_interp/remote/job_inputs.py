"""What a server is given to read: prompts of several passes as one batch, and whole contexts.

The second pass of a `Contrast` goes in step with the first there, as samples of the same batch:

```text
                     samples                 tokens of the prompt
first pass           0 .. batch - 1          ....What is this ?
pass of a Contrast   batch .. 2 batch - 1    You are drunk . What is this ?
```

Shorter prompts are padded in front. Nodes of a pass see its own samples and tokens alone, as they
would in a run of its own. The contrasted logits are written into every pass, so that all choose the
same token.

A server keeps no cache between jobs, so a question to a compressed context is sent behind the whole
prompt, and what the context lacks is hidden from its rows (`hidden_keys`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..engine.cached_prefix import CachedPrefix
from ..engine.contrast_pass import ContrastInputs
from ..engine.hooked_model import HookedModel
from ..errors import CapabilityError

PER_TOKEN = (
    "input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "cross_attention_mask",
)  # fmt: skip
"""Inputs whose second axis is that of the tokens of a prompt."""
PIXELS = ("pixel_values", "pixel_values_images")
_HISTORY = (
    "repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "sequence_bias",
)  # fmt: skip
"""Options by which tokens that a prompt holds count."""


def joined(hooked: HookedModel, passes: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The inputs of several passes as those of one batch.

    **Raises:** `CapabilityError` for inputs of shapes that do not fit into one batch.
    """
    longest = max(inputs["input_ids"].shape[1] for inputs in passes)
    pad = hooked.processor.tokenizer.pad_token_id or 0
    names = dict.fromkeys(name for inputs in passes for name in inputs)
    return {name: _joined(hooked, name, passes, longest, pad) for name in names}


def _joined(
    hooked: HookedModel, name: str, passes: Sequence[Mapping[str, Tensor]], longest: int, pad: int
) -> Tensor:
    if name in PER_TOKEN:
        found = [
            _in_front(x, longest, pad if name == "input_ids" else 0) for x in _all(name, passes)
        ]
    elif hooked.family.tiles_by_prompt:
        found = _tiles(name, passes)
    else:
        found = [inputs[name] for inputs in passes if name in inputs]
    if len({x.shape[1:] for x in found}) > 1:
        shapes = ", ".join(str(tuple(x.shape)) for x in found)
        raise CapabilityError(
            f"a second pass cannot run remotely: there it shares a batch with the first, and their "
            f"{name} are {shapes}; run it locally"
        )
    return torch.cat(found)


def _all(name: str, passes: Sequence[Mapping[str, Tensor]]) -> list[Tensor]:
    """An input of every pass; zeros for those that lack it."""
    return [
        inputs[name] if name in inputs else torch.zeros_like(inputs["input_ids"])
        for inputs in passes
    ]


def _in_front(value: Tensor, longest: int, fill: int) -> Tensor:
    missing = longest - value.shape[1]
    return torch.cat([value.new_full((len(value), missing, *value.shape[2:]), fill), value], 1)


def _tiles(name: str, passes: Sequence[Mapping[str, Tensor]]) -> list[Tensor]:
    """Pixels that come as one row per prompt; a row of zeros stands for no image."""
    known = [inputs.get(name) for inputs in passes]
    like = next(x for x in known if x is not None)
    most = max(x.shape[1] for x in known if x is not None)
    rows = [
        like.new_zeros(len(inputs["input_ids"]), 0, *like.shape[2:]) if x is None else x
        for x, inputs in zip(known, passes, strict=True)
    ]
    return [torch.cat([x, x.new_zeros(len(x), most - x.shape[1], *x.shape[2:])], 1) for x in rows]


def shows(inputs: Mapping[str, Tensor]) -> bool:
    """Whether a pass has images."""
    return any(name in inputs for name in PIXELS)


def whole_inputs(inputs: Mapping[str, Tensor], cached_prefix: CachedPrefix) -> dict[str, Tensor]:
    """The inputs of questions to a context, and with them what its prompt was read from."""
    ids = inputs["input_ids"]
    prompt = {name: torch.cat([x.cpu()] * len(ids)) for name, x in cached_prefix.inputs.items()}
    missing = ids.shape[1] - cached_prefix.length
    for name in prompt.keys() & set(PER_TOKEN):
        prompt[name] = torch.nn.functional.pad(prompt[name], (0, missing))
    return {**prompt, **inputs}


def refuse_apart(
    hooked: HookedModel,
    beside: Mapping[int, ContrastInputs],
    generate: Mapping[str, Any] | None,
    prompt: Tensor,
) -> None:
    """Refuse options by which two passes in step may choose different tokens.

    **Raises:** `CapabilityError` naming the option.
    """
    if generate is None or not beside:
        return
    if generate.get("do_sample"):
        raise CapabilityError(
            "a contrast that samples cannot run remotely: there its passes are samples of one "
            "batch, and would draw different tokens; leave do_sample out, or run it locally"
        )
    config = hooked.hf_model.generation_config
    if all(torch.equal(one.inputs["input_ids"].cpu(), prompt.cpu()) for one in beside.values()):
        return
    for name in _HISTORY:
        value = generate.get(name, getattr(config, name, None))
        if value not in (None, 0, 1, 1.0):
            raise CapabilityError(
                f"{name}={value} looks at the prompt, and a pass of this contrast has another: on "
                f"a server both choose their tokens, and may choose different ones; give "
                f"{name}={1.0 if 'penalty' in name else 0}, or run it locally"
            )
