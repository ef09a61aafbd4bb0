"""Gradients at hook points: what is watched in the forward pass, and the backward pass after it."""

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from ..errors import CapabilityError
from ..graph import Node, Site
from ..graph.plan import Plan


@final
@dataclass(frozen=True, eq=False)
class Watched:
    """A value that the gradient is taken of: it is the model's plus `nudge`, which is zero."""

    number: int
    node: Node
    site: Site
    nudge: Tensor


def refuse_gradients(plan: Plan, *, generates: bool) -> None:
    """Refuse gradients while an answer is generated.

    **Raises:** `CapabilityError` saying what would work.
    """
    asks = [node for node in plan.graph if node.needs_gradient]
    if asks and generates:
        raise CapabilityError(
            f"{asks[0]!r}: gradients are of one forward pass; use run, with an answer as in "
            "run(encoding.with_answer(text), graph=...)"
        )


def watched(number: int, node: Node, site: Site, value: Tensor) -> tuple[Watched, Tensor]:
    """Note a value, and give back the one to go on with: the same numbers, through the nudge."""
    nudge = torch.zeros_like(value).requires_grad_(True)
    return Watched(number, node, site, nudge), value + nudge


def through(own: Tensor, explicit: Tensor) -> Tensor:
    """The numbers of `own` with the gradients of `explicit`: both are the same but for rounding."""
    return own.detach() + (explicit - explicit.detach())


def backward(seen: list[Watched], logits: Tensor) -> list[tuple[Watched, Tensor]]:
    """The gradient at every watched value.

    **Raises:** `CapabilityError` if a target does not depend on a value, by autograd's word.
    """
    found: dict[int, Tensor] = {}
    for node in dict.fromkeys(each.node for each in seen):
        mine = [i for i, each in enumerate(seen) if each.node == node]
        asked: Any = node
        target = asked.target(logits, seen[mine[0]].site.layout)
        nudges = [seen[i].nudge for i in mine]
        if not target.requires_grad:
            raise CapabilityError(f"{node!r}: the logits do not depend on the values at this hook")
        grads = torch.autograd.grad(target, nudges, retain_graph=True, allow_unused=True)
        for i, nudge, grad in zip(mine, nudges, grads, strict=True):
            found[i] = torch.zeros_like(nudge) if grad is None else grad
    return [(each, found[i]) for i, each in enumerate(seen)]
