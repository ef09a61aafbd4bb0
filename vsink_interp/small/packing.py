"""Turns about one scene in one row: `<|im_start|>`, 64 image tokens, then turns that are apart.

A turn is question, line break, answer, `<|im_end|>`. Positions restart after the image, and no turn
sees another: the logits of each equal those of a conversation of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ..toy.language import BACKGROUNDS, COLORS, DESCRIBE, SHAPES, Question, ask
from ..toy.scenes import Scene
from .parts import END, IMAGE, START

PATCHES: Final = 64
PREFIX: Final = PATCHES + 1
IGNORE: Final = -100
ASKED: Final = {
    "object": 2.5,
    "color": 1.2,
    "count": 4.0,
    "relation": 2.5,
    "what-color": 0.7,
    "what-shape": 0.6,
    "where": 1.0,
    "how-many": 1.5,
    "background": 0.5,
}
"""How often each kind is asked, relative to the others."""
WEIGHTS: Final = {
    "object": 1.5,
    "color": 1.2,
    "count": 3.0,
    "relation": 2.0,
    "what-color": 0.8,
    "what-shape": 0.8,
    "where": 1.2,
    "how-many": 1.5,
    "background": 0.6,
    "caption": 0.6,
}
"""The weight of each answer token in the loss; in a caption that of words about the scene."""
_FILLER: Final = 1 / 6
_END: Final = 0.1
_CLOSED: Final = 0.2
"""The share of one-word answers after which `<|im_end|>` is asked for."""


@dataclass(frozen=True)
class Turn:
    """The tokens of a question and its answer, and the weight of each answer token."""

    kind: str
    query: tuple[int, ...]
    answer: tuple[int, ...]
    weights: tuple[float, ...]
    blind: bool = False


@dataclass(frozen=True, eq=False)
class Packed:
    """Rows padded on the right; `turn` is 0 in the prefix, from 1 in turns and -1 on padding.

    `blind` marks answer tokens that may not see the image.
    """

    ids: Int[Tensor, "batch token"]
    position: Int[Tensor, "batch token"]
    turn: Int[Tensor, "batch token"]
    labels: Int[Tensor, "batch token"]
    weights: Float[Tensor, "batch token"]
    blind: Bool[Tensor, "batch token"]

    def visible(self) -> Bool[Tensor, "batch query key"]:
        """Causal; a turn sees the prefix and itself alone, and every row itself."""
        width = self.ids.shape[1]
        causal = torch.ones(width, width, dtype=torch.bool).tril()
        own = self.turn[:, :, None] == self.turn[:, None, :]
        prefix = (self.turn == 0)[:, None, :] & (self.turn >= 0)[:, :, None]
        image = torch.arange(width).sub(1).lt(PATCHES) & torch.arange(width).gt(0)
        seen = causal & (own | prefix) & (self.turn >= 0)[:, None, :]
        seen = seen & ~(self.blind[:, :, None] & image)
        return seen | torch.eye(width, dtype=torch.bool)


class Writer:
    """Makes turns of questions; texts are tokenised once."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.ids = cache(lambda text: tuple(tokenizer(text, add_special_tokens=False).input_ids))
        known = tokenizer.get_vocab()
        self.start, self.end, self.image = known[START], known[END], known[IMAGE]
        names = (*COLORS, *SHAPES, *BACKGROUNDS)
        self.told = {self.ids(f" {name}")[0] for name in names}

    def turn(self, question: Question, *, closed: bool = True, blind: bool = False) -> Turn:
        """One turn; without `closed` nothing is asked of what follows the answer."""
        answer = self.ids(question.answer)
        weight = WEIGHTS[question.kind]
        weights = [weight] * len(answer)
        if question.kind == "caption":
            weights = [weight if token in self.told else weight * _FILLER for token in answer]
        if closed:
            answer, weights = (*answer, self.end), [*weights, _END]
        query = self.ids(f"{question.text}\n")
        return Turn(question.kind, query, answer, tuple(weights), blind)

    def training(
        self, one: Scene, rng: np.random.Generator, *, room: int, captions: float, blind: float
    ) -> list[Turn]:
        """Turns about a scene that fit into `room` tokens: perhaps a caption, and questions."""
        turns, free = [], room
        if rng.random() < captions:
            asked = ("Describe the image.", DESCRIBE)[int(rng.random() < 0.5)]
            caption = Question("caption", asked, one.caption)
            turns.append(self.turn(caption, blind=bool(rng.random() < blind)))
            free -= _length(turns[-1])
        kinds, chances = list(ASKED), np.array([*ASKED.values()])
        seen: set[str] = set()
        while True:
            kind = kinds[int(rng.choice(len(kinds), p=chances / chances.sum()))]
            made = [q for q in ask(rng, one.objects, one.background) if q.kind == kind]
            if not made or made[0].text in seen:
                continue
            seen.add(made[0].text)
            question = made[0]
            if rng.random() < 0.2:
                question = Question(kind, question.text.capitalize(), question.answer)
            turn = self.turn(question, closed=bool(rng.random() < _CLOSED))
            if _length(turn) > free:
                return turns
            turns.append(turn)
            free -= _length(turn)

    def pack(self, rows: Sequence[Sequence[Turn]]) -> Packed:
        """Rows of turns as tensors."""
        width = PREFIX + max(sum(map(_length, turns)) for turns in rows)
        shape = (len(rows), width)
        ids, position = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        turn, labels = np.full(shape, -1), np.full(shape, IGNORE)
        weights, blind = np.zeros(shape, np.float32), np.zeros(shape, bool)
        ids[:, 0], ids[:, 1:PREFIX] = self.start, self.image
        turn[:, :PREFIX], position[:, :PREFIX] = 0, np.arange(PREFIX)
        for row, turns in enumerate(rows):
            at = PREFIX
            for number, one in enumerate(turns, start=1):
                tokens, asked = (*one.query, *one.answer[:-1]), len(one.query)
                here = slice(at, at + len(tokens))
                ids[row, here], turn[row, here] = tokens, number
                position[row, here] = PREFIX + np.arange(len(tokens))
                told = slice(at + asked - 1, at + len(tokens))
                labels[row, told], weights[row, told] = one.answer, one.weights
                blind[row, at + asked : at + len(tokens)] = one.blind
                at += len(tokens)
        return Packed(*map(torch.from_numpy, (ids, position, turn, labels, weights, blind)))


def _length(turn: Turn) -> int:
    return len(turn.query) + len(turn.answer) - 1


def by_kind(turns: Sequence[Turn], right: Sequence[bool]) -> Mapping[str, float]:
    """The share of right answers of each kind."""
    found: dict[str, list[bool]] = {}
    for turn, good in zip(turns, right, strict=True):
        found.setdefault(turn.kind, []).append(good)
    return {kind: sum(goods) / len(goods) for kind, goods in sorted(found.items())}
