"""Options of `model.generate`: those a run supports, those it refuses, and where answers end."""

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from copy import deepcopy
from inspect import signature
from numbers import Integral
from reprlib import repr as shorten
from typing import Any, final

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import StoppingCriteriaList, StopStringCriteria

from ..engine import HookedModel
from ..errors import CapabilityError, InputError

LONGEST = 128
"""The default of `max_new_tokens`."""

_ROWS_UNSEEN = "assisted decoding runs rows that no edit has seen"
_BEAMS = "beam search reorders the cache under the edits"
_ELSEWHERE = "transformers fetches its program from the network; write it as a logits processor"
_RECORDED = "a Run has no place for it; probes.Pattern, Resid and Logits record it"
_OUTPUTS = ("output_attentions", "output_hidden_states", "return_dict", "use_cache")
_ENCODED = "the encoding holds what the model reads"
REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "num_beams": ((None, 1), _BEAMS),
    "num_beam_groups": ((None, 1), _BEAMS),
    "constraints": ((None,), _BEAMS),
    "force_words_ids": ((None,), _BEAMS),
    "num_return_sequences": ((None, 1), "give the prompt several times as a batch instead"),
    "guidance_scale": ((None, 1), "no edit would see its second pass; use edits.Contrast"),
    "penalty_alpha": ((None,), _ELSEWHERE),
    "dola_layers": ((None,), _ELSEWHERE),
    "assistant_model": ((None,), _ROWS_UNSEEN),
    "assistant_early_exit": ((None,), _ROWS_UNSEEN),
    "prompt_lookup_num_tokens": ((None,), _ROWS_UNSEEN),
    "use_mtp": ((None, False), _ROWS_UNSEEN),
    "token_healing": ((None, False), "it rewrites the end of the prompt"),
    "prefill_chunk_size": ((None,), "edits need the prompt in one pass"),
    # transformers takes "hybrid", which configurations of models with windows say, as None.
    "cache_implementation": (
        (None, "dynamic", "hybrid"),
        "other caches hide how many tokens were seen",
    ),
    "past_key_values": ((None,), "a run starts from the prompt"),
    "cache": ((None,), "a run starts from the prompt"),
    "use_cache": ((None, True), "generation here always uses the cache"),
}
"""Options of `model.generate` that a run refuses: the values that are fine, and the reason."""

REFUSED_ARGUMENTS: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "max_length": ((None,), "say max_new_tokens"),
    "custom_generate": ((None,), _ELSEWHERE),
    "negative_prompt_ids": ((None,), "use edits.Contrast(prompt=...)"),
    "output_attentions": ((None, False), _RECORDED),
    "output_hidden_states": ((None, False), _RECORDED),
    "output_scores": ((None, False), _RECORDED),
    "output_logits": ((None, True), "a Run always holds the logits"),
    "return_dict_in_generate": ((None, True), "a Run already holds what it would return"),
    **dict.fromkeys(
        ("inputs", "input_ids", "inputs_embeds", "attention_mask"), ((None,), _ENCODED)
    ),
    **dict.fromkeys(("position_ids", "pixel_values"), ((None,), _ENCODED)),
}
"""As `REFUSED`, for arguments of the call; a model's own configuration is overruled."""

GRAPH_WORDS = ("edit", "edits", "probe", "probes", "hooks", "fwd_hooks", "interventions")
"""What people call a graph."""

SAMPLING: Mapping[str, tuple[Any, ...]] = {
    "temperature": (None, 0, 1),
    "top_k": (None, 0, 50),
    "top_p": (None, 1),
    "top_h": (None,),
    "min_p": (None, 0),
    "typical_p": (None, 1),
    "epsilon_cutoff": (None, 0),
    "eta_cutoff": (None, 0),
}
"""Options that transformers ignores in greedy decoding, and their neutral values."""


def _configuration(hf_model: Any, given: Mapping[str, Any]) -> Any:
    """The generation configuration: the one passed in, completed from the model's."""
    own = given.get("generation_config")
    if own is None:
        return hf_model.generation_config
    merged = deepcopy(own)
    merged.update(
        **hf_model.generation_config.to_dict(), defaults_only=True, allow_custom_entries=True
    )
    return merged


def options(
    hf_model: Any, tokenizer: Any, max_new_tokens: int | None, hf_kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments for `model.generate`: greedy by default.

    **Raises:** `CapabilityError` for options that a run does not support, with values that are
    fine; `InputError` for less than one new token, or sampling options in greedy decoding.
    """
    if named := [name for name in GRAPH_WORDS if name in hf_kwargs]:
        raise InputError(
            f"{named[0]}=: edits and probes are given as graph=, joined by | or listed"
        )
    config = _configuration(hf_model, hf_kwargs)
    _refuse_unsampled(config, hf_kwargs)
    for name in (*REFUSED, *REFUSED_ARGUMENTS):
        fine, why = REFUSED.get(name) or REFUSED_ARGUMENTS[name]
        wanted = hf_kwargs.get(name, getattr(config, name, None) if name in REFUSED else None)
        if wanted not in fine:
            raise CapabilityError(f"{name}={shorten(wanted)} is not supported, only {fine}: {why}")
    pad, _ = closing(config, tokenizer)
    return {
        **({"do_sample": False} if hf_kwargs.get("generation_config") is None else {}),
        **({"tokenizer": tokenizer} if _stop_strings(config, hf_kwargs) else {}),
        "pad_token_id": pad,
        **hf_kwargs,
        "max_new_tokens": _longest(max_new_tokens, hf_kwargs.get("generation_config")),
    }


def closing(config: Any, tokenizer: Any) -> tuple[int | None, tuple[int, ...]]:
    """The ids of the token that fills shorter answers up, and of those that end an answer."""
    end = config.eos_token_id
    pad = tokenizer.pad_token_id if config.pad_token_id is None else config.pad_token_id
    return pad, () if end is None else tuple(torch.as_tensor(end).reshape(-1).tolist())


def _refuse_unsampled(config: Any, given: Mapping[str, Any]) -> None:
    for name, nothing in SAMPLING.items() if not _samples(config, given) else ():
        if given.get(name) not in nothing:
            raise InputError(
                f"{name}={given[name]} is for sampling, and the answer is greedy: add "
                "do_sample=True"
            )


def _samples(config: Any, given: Mapping[str, Any]) -> bool:
    """Whether tokens are sampled; the model's own configuration is overruled."""
    own = given.get("generation_config")
    return bool(given.get("do_sample", own is not None and config.do_sample))


def refuse_unread(hf_model: Any, given: Mapping[str, Any]) -> None:
    """Refuse options of generation in a single forward pass, where transformers ignores them.

    **Raises:** `InputError` naming it.
    """
    generates = {*vars(hf_model.generation_config), *signature(hf_model.generate).parameters}
    read = {*signature(hf_model.forward).parameters, *_OUTPUTS}
    if unread := sorted(given.keys() & (generates | {"seed"}) - read):
        raise InputError(
            f"{', '.join(unread)}: for generating, and this is one forward pass; give "
            "max_new_tokens as well, or leave it out"
        )


def called(
    hf_model: Any, tokenizer: Any, given: Mapping[str, Any]
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """What a plain trace calls, and with which options: to generate where `max_new_tokens` is one.

    **Raises:** as `options`, or as `refuse_unread`.
    """
    given = dict(given)
    if "max_new_tokens" not in given:
        refuse_unread(hf_model, given)
        return hf_model, given
    return hf_model.generate, options(hf_model, tokenizer, given.pop("max_new_tokens"), given)


def _stop_strings(config: Any, given: Mapping[str, Any]) -> Any:
    return given.get("stop_strings", config.stop_strings)


def _longest(max_new_tokens: int | None, own: Any) -> int:
    """The maximum of generated tokens; `own` is a generation configuration that was passed in."""
    if max_new_tokens is None and own is not None:
        max_new_tokens = own.max_new_tokens
        if max_new_tokens is None and own.max_length is not None:
            raise CapabilityError(
                f"max_length={own.max_length} is not supported: say max_new_tokens"
            )
    length = LONGEST if max_new_tokens is None else max_new_tokens
    if not isinstance(length, Integral) or isinstance(length, bool) or length < 1:
        raise InputError(f"max_new_tokens is a whole number of at least 1; got {length!r}")
    return int(length)


@contextmanager
def seeded(seed: int | None, hooked: HookedModel, given: Mapping[str, Any]) -> Generator[None]:
    """Sample with a seed, and restore the state of torch's generator.

    **Raises:** `InputError` if decoding is greedy.
    """
    if seed is None:
        yield
        return
    if not _samples(_configuration(hooked.hf_model, given), given):
        raise InputError(
            f"seed={seed} is for sampling, and the answer is greedy: add do_sample=True"
        )
    device = hooked.device
    with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(seed)
        yield


def refuse_endless(hf_model: Any, given: Mapping[str, Any], batch: int) -> None:
    """Refuse a batch in which answers would not end at a stop string.

    **Raises:** `CapabilityError` if there is no end token with which transformers pads answers.
    """
    config = _configuration(hf_model, given)
    stops = _stop_strings(config, given) or given.get("stopping_criteria")
    if stops and batch > 1 and given.get("eos_token_id", config.eos_token_id) is None:
        raise CapabilityError(
            "in a batch, transformers ends answers that meet a stop string or criterion only if "
            "there is an end token as well; give eos_token_id, or one prompt at a time"
        )


@final
class Watched:
    """Stopping criteria of the user, with a note of which answers each step ended."""

    def __init__(self, criteria: Iterable[Any]) -> None:
        self.criteria = StoppingCriteriaList(criteria)
        self.met: list[Tensor] = []

    def __call__(self, ids: Tensor, scores: Any, **more: Any) -> Tensor:
        """Whether each answer is to end, as the criteria say."""
        self.met.append(self.criteria(ids, scores, **more))
        return self.met[-1]


def watched(given: Mapping[str, Any]) -> dict[str, Any]:
    """What `model.generate` is given, with criteria that note which answers they end."""
    criteria = given.get("stopping_criteria")
    return {**given, "stopping_criteria": [Watched(criteria)]} if criteria else dict(given)


def after_end(
    hf_model: Any, ids: Int[Tensor, "batch token"], start: int, given: Mapping[str, Any]
) -> Bool[Tensor, "batch new"]:
    """The generated tokens after the end of their answer, which only pad the batch.

    Padding may look like an end token, so what ended an answer is asked: its first end token, stop
    string or criterion.

    **Arguments:**

    - `start`: the first generated token.
    - `given`: as `watched` returns it.
    """
    config = _configuration(hf_model, given)
    end = given.get("eos_token_id", config.eos_token_id)
    found = torch.as_tensor([-1] if end is None else end, device=ids.device)
    ends = torch.isin(ids[:, start:], found)
    for (criterion,) in filter(None, [given.get("stopping_criteria")]):
        ends = ends | torch.stack(criterion.met, -1).to(ends.device)
    if stops := _stop_strings(config, given):
        met = StopStringCriteria(given["tokenizer"], stops)
        steps = range(start + 1, ids.shape[1] + 1)
        ends = ends | torch.stack([met(ids[:, :step], None) for step in steps], -1)
    return ((ends.int().cumsum(-1) - ends.int()) > 0).cpu()
