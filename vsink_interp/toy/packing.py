"""Several conversations about one image in one row: the shared prefix is computed once.

A pack is `<s> user : CONTEXT` followed by turns that cannot see each other; positions restart
after the prefix. Under the mask of `visible` each turn's logits equal those of its own separate
conversation, and an image with seven turns costs a third of seven conversations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

HEAD: Final = 0
CONTEXT: Final = 1
QUERY: Final = 2
GENERATED: Final = 3
IGNORE: Final = -100
# Columns of the two objects of a relation, its side, the true count less two, the asked less one:
# how many values each has.
FACTS: Final = (3, 3, 2, 4, 6)
NO_FACTS: Final = (IGNORE,) * len(FACTS)


@dataclass(frozen=True)
class Turn:
    """A question (with `assistant :`) and its answer (with `</s>`), as token ids.

    `weight` is that of the loss at the first answer token, `rest` that at those
    between it and `</s>`. `source` names for each answer token
    the context token that tells it, -1 where none does; `mentions` for each query token the
    context token that it speaks of. `facts` are what the answer follows from, see `FACTS`.
    """

    query: tuple[int, ...]
    answer: tuple[int, ...]
    weight: float = 1.0
    source: tuple[int, ...] = ()
    mentions: tuple[int, ...] = ()
    rest: float = 1.0
    facts: tuple[int, ...] = NO_FACTS


@dataclass(frozen=True)
class Pack:
    """Head `<s> user :`, context (image placeholders, or a scene told in words) and turns."""

    head: tuple[int, ...]
    context: tuple[int, ...]
    turns: tuple[Turn, ...]


@dataclass(frozen=True, eq=False)
class Batch:
    """Packs padded on the right; `turn` is 0 in the prefix, from 1 in turns and -1 on padding.

    `source` is the position in the row that tells the label, or -1.
    """

    ids: Int[Tensor, "batch token"]
    position: Int[Tensor, "batch token"]
    turn: Int[Tensor, "batch token"]
    role: Int[Tensor, "batch token"]
    labels: Int[Tensor, "batch token"]
    source: Int[Tensor, "batch token"]
    facts: Int[Tensor, "batch token fact"]
    weights: Float[Tensor, "batch token"]

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        return Batch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def _columns(pack: Pack) -> list[tuple[int | float, ...]]:
    """(id, position, turn, role, label, source, *facts, weight) for each token of a pack."""
    first = len(pack.head)
    prefix = first + len(pack.context)
    blank = (IGNORE, -1, *NO_FACTS, 0.0)
    rows = [(i, n, 0, HEAD, *blank) for n, i in enumerate(pack.head)]
    rows += [(i, first + n, 0, CONTEXT, *blank) for n, i in enumerate(pack.context)]
    for number, turn in enumerate(pack.turns, start=1):
        tokens, asked = (*turn.query, *turn.answer), len(turn.query)
        for n, token in enumerate(tokens[:-1]):
            role = QUERY if n < asked else GENERATED
            label = tokens[n + 1] if n >= asked - 1 else IGNORE
            weight = turn.weight if n == asked - 1 else float(n >= asked)
            if asked <= n < len(tokens) - 2:
                weight = turn.rest
            source = -1
            if turn.source and n >= asked - 1:
                source = turn.source[n + 1 - asked]
            elif turn.mentions and n < asked:
                source = turn.mentions[n]
            source = first + source if source >= 0 else -1
            facts = turn.facts if n == asked - 1 else NO_FACTS
            rows.append((token, prefix + n, number, role, label, source, *facts, weight))
    return rows  # ty: ignore[invalid-explicit-return] - the facts in the middle are whole numbers


def collate(packs: Sequence[Pack]) -> Batch:
    """Packs as one batch of tensors."""
    columns = [_columns(pack) for pack in packs]
    width = max(map(len, columns))
    blank = (0, 0, -1, HEAD, IGNORE, -1, *NO_FACTS, 0.0)
    table = np.array([rows + [blank] * (width - len(rows)) for rows in columns])
    whole = torch.from_numpy(table[..., :-1].astype(np.int64))
    weights = torch.from_numpy(table[..., -1].astype(np.float32))
    single = (whole[..., i].contiguous() for i in range(6))
    return Batch(*single, whole[..., 6:].contiguous(), weights)


def visible(batch: Batch) -> Bool[Tensor, "batch query key"]:
    """Causal, and a turn sees the prefix and itself alone; every row sees itself."""
    width = batch.ids.shape[1]
    causal = torch.ones(width, width, dtype=torch.bool, device=batch.ids.device).tril()
    own = batch.turn[:, :, None] == batch.turn[:, None, :]
    prefix = (batch.turn == 0)[:, None, :] & (batch.turn >= 0)[:, :, None]
    itself = torch.eye(width, dtype=torch.bool, device=batch.ids.device)
    return (causal & (own | prefix) & (batch.turn >= 0)[:, None, :]) | itself


def hide(
    mask: Bool[Tensor, "batch query key"],
    rows: Bool[Tensor, "batch token"],
    columns: Bool[Tensor, "batch token"],
) -> Bool[Tensor, "batch query key"]:
    """The mask without the given columns in the given rows."""
    return mask & ~(rows[:, :, None] & columns[:, None, :])
