"""Accuracy, caption F1, knockouts and masking of the toy LMM over a set of scenes."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from .answers import Cut, Prompts, generate, image_from, prompts
from .data import free_patches
from .language import DESCRIBE, YES_NO_KINDS, object_f1, parse_objects
from .scenes import Scene
from .sinkstats import (
    column_cut,
    contributions,
    first_token,
    image_part,
    random_patches,
    sink_dims,
    sinks_by_layer,
    unit_resid,
    valley,
)

_CAPTION_TOKENS = 36


@dataclass(frozen=True, eq=False)
class Subject:
    """What is measured: a model, its tokenizer, and scenes with their caption prompts."""

    model: LlavaForConditionalGeneration
    tokenizer: PreTrainedTokenizerFast
    scenes: Sequence[Scene]
    given: Prompts
    chunk: int = 125

    @property
    def layers(self) -> int:
        """How many decoder layers there are."""
        return self.model.config.get_text_config().num_hidden_layers

    def decode(self, ids: Tensor) -> list[str]:
        """Answers as text."""
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True)


def subject(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    scenes: Sequence[Scene],
) -> Subject:
    """The model together with the caption prompt of every scene."""
    return Subject(model, tokenizer, scenes, prompts(tokenizer, scenes, [DESCRIBE] * len(scenes)))


def captions(what: Subject, cut: Callable[[slice, Prompts], Cut | None]) -> list[str]:
    """The caption of every scene under a cut, which is made for each chunk of the prompts."""
    told = []
    for start in range(0, len(what.scenes), what.chunk):
        part = slice(start, start + what.chunk)
        given = what.given[part]
        ids = generate(what.model, given, tokens=_CAPTION_TOKENS, cut=cut(part, given))
        told += what.decode(ids)
    return told


def caption_f1(what: Subject, told: Sequence[str]) -> float:
    """Mean object F1 of captions against the scenes' objects."""
    pairs = zip(told, what.scenes, strict=True)
    scores = [object_f1(parse_objects(text), parse_objects(one.caption)) for text, one in pairs]
    return float(np.mean(scores))


def caption_figures(what: Subject) -> dict[str, float]:
    """Object F1, exact captions, and right backgrounds."""
    told = captions(what, lambda *_: None)
    pairs = list(zip(told, what.scenes, strict=True))
    return {
        "object_f1": caption_f1(what, told),
        "exact": float(np.mean([text.strip() == one.caption for text, one in pairs])),
        "background": float(
            np.mean([text.strip().endswith(f" {one.background}.") for text, one in pairs])
        ),
    }


def right_answers(
    what: Subject, cut: Callable[[Prompts], Cut | None] = lambda _: None
) -> dict[str, list[bool]]:
    """For each kind of question, which answers are exactly right."""
    asked = [(one, question) for one in what.scenes for question in one.questions]
    right: dict[str, list[bool]] = {question.kind: [] for _, question in asked}
    for start in range(0, len(asked), 2 * what.chunk):
        part = asked[start : start + 2 * what.chunk]
        texts = [question.text for _, question in part]
        given = prompts(what.tokenizer, [one for one, _ in part], texts)
        told = what.decode(generate(what.model, given, tokens=3, cut=cut(given)))
        for text, (_, question) in zip(told, part, strict=True):
            right[question.kind].append(text.strip() == question.answer)
    return right


def _accuracy(right: dict[str, list[bool]]) -> dict[str, float]:
    by_kind = {kind: float(np.mean(answers)) for kind, answers in right.items()}
    yes_no = [by_kind[kind] for kind in YES_NO_KINDS if kind in by_kind]
    return {"yes_no": float(np.mean(yes_no)), "all": float(np.mean([*by_kind.values()]))} | by_kind


def accuracy_figures(what: Subject) -> dict[str, object]:
    """Accuracy and number of questions of each kind; `yes_no` is the mean of the yes/no kinds."""
    right = right_answers(what)
    return {
        "accuracy": _accuracy(right),
        "questions": {kind: len(answers) for kind, answers in right.items()},
    }


def knockout_figures(what: Subject) -> dict[str, object]:
    """Caption F1 and question accuracy with the image cut off from layer 0, 1, ... on.

    The last entry of each list, from the layer after the last on, is the uncut model.
    """
    flows = {"query": (True, False), "generated": (False, True), "query+generated": (True, True)}
    every = range(what.layers + 1)
    f1 = {
        name: [
            caption_f1(
                what,
                captions(
                    what,
                    lambda _, given, at=at, query=query, made=made: image_from(
                        at, given, query=query, generated=made
                    ),
                ),
            )
            for at in every
        ]
        for name, (query, made) in flows.items()
    }
    asked = [
        _accuracy(
            right_answers(
                what, lambda given, at=at: image_from(at, given, query=True, generated=True)
            )
        )
        for at in every
    ]
    both = f1["query+generated"]
    recovered = [at for at in every if both[at] >= 0.9 * both[-1]]
    return {
        "caption_f1": f1,
        "yes_no": [row["yes_no"] for row in asked],
        "all_questions": [row["all"] for row in asked],
        "recovery_layer": recovered[0],
    }


def sink_figures(what: Subject) -> dict[str, object]:
    """Sink dimensions, the histogram of phi, sinks by layer, figs. 3b and 3c of paper A."""
    lines = [f"user : {question.text} assistant :" for question in what.scenes[0].questions]
    texts = [what.tokenizer(line).input_ids for line in [*lines, what.scenes[0].caption]]
    firsts = first_token(what.model, texts)
    unit = unit_resid(what.model, what.given)
    firsts = torch.cat([firsts, unit[:, :1, 0].transpose(0, 1)])
    dims = sink_dims(firsts)
    if not dims:
        return {"dims": dims}
    phi = unit[..., dims].abs().amax(-1)
    image = image_part(phi, what.given)
    early, late = what.layers // 4, what.layers - 1
    gap = valley(image[early:late].flatten())
    sinks = image >= gap.tau
    text = phi[early:late, :, 1:3].flatten(), phi[early:late][:, what.given.query].flatten()
    return {
        "dims": dims,
        "first_token": {str(d): firsts[-1, :, d].abs().tolist() for d in dims},
        "phi_bos": phi[:, 0, 0].tolist(),
        "phi_gap": asdict(gap),
        "phi_sink_median": float(image[early:late][sinks[early:late]].median()),
        "phi_other_median": float(image[early:late][~sinks[early:late]].median()),
        "phi_other_text_max": max(float(values.max()) for values in text),
        "text_tokens_above_tau": float((torch.cat(text) >= gap.tau).float().mean()),
        "scenes_with_sink_everywhere": float(sinks[early:late].any(-1).all(0).float().mean()),
        **sinks_by_layer(sinks, what.scenes),
        "background_patches": float(free_patches(what.scenes).float().mean()),
        "masking_f1": _masking(what, sinks, early),
        "contribution": _contribution(what, sinks, early),
    }


def _masking(what: Subject, sinks: Tensor, early: int) -> dict[str, float]:
    """Caption F1 with the sinks hidden, or as many other image tokens; layer by layer."""
    chosen = sinks.clone()
    chosen[:early] = chosen[early]
    rng = np.random.default_rng(0)
    arms = {
        "none": torch.zeros_like(chosen),
        "sinks": chosen,
        "random_fixed": random_patches(chosen, rng, fixed=True),
        "random_redrawn": random_patches(chosen, rng, fixed=False),
    }
    return {
        name: caption_f1(
            what, captions(what, lambda part, given, arm=arm: column_cut(arm[:, part], given))
        )
        for name, arm in arms.items()
    }


def _contribution(what: Subject, sinks: Tensor, early: int) -> dict[str, object]:
    """Attention and contribution of sinks and of the other image tokens, from `early` on."""
    rows = []
    for start in range(0, len(what.scenes), what.chunk):
        given = what.given[start : start + what.chunk]
        ids = torch.cat([given.ids, generate(what.model, given, tokens=_CAPTION_TOKENS)], dim=1)
        rows.append(contributions(what.model, ids, given))
    attention, norm, first = (torch.cat(parts, dim=1) for parts in zip(*rows, strict=True))
    inner = sinks[early:]
    return {
        "attention_sink": float(attention[early:][inner].mean()),
        "attention_other": float(attention[early:][~inner].mean()),
        "norm_sink": float(norm[early:][inner].mean()),
        "norm_other": float(norm[early:][~inner].mean()),
        "attention_bos_by_layer": first.mean(1).tolist(),
        "attention_image_by_layer": attention.sum(-1).mean(1).tolist(),
        "sink_share_by_layer": ((attention * sinks).sum((1, 2)) / attention.sum((1, 2))).tolist(),
    }
