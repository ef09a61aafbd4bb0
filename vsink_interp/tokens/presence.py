"""Whether a prompt has the tokens that a group names, and rows that see them."""

from typing import Any

from jaxtyping import Bool
from torch import Tensor

from ..errors import LayoutError
from .groups import Flow, Group, Term
from .segments import PAD, line

UNSEEN = (
    ". This model reads images through cross-attention: they have no tokens in "
    "the prompt, so flows, sinks and maps of image tokens are not defined here"
)


def refuse_absent(layout: Any, group: Group, *, generates: bool) -> None:
    """As `TokenLayout.check_group`."""
    for term in group.terms:
        if not layout.has(term):
            lacking = str(term).removeprefix("~")
            raise LayoutError(
                f"{str(group)!r}: this prompt has no {lacking} token; it is: {line(layout, 0)}"
                + UNSEEN * (layout.sight == "cross-attention" and term.word == "image")
            )
    ahead = layout.ahead(generates=generates)
    may_come = set() if ahead.length > layout.prompt_length else {"generated"}
    for terms in group.unions:
        if not may_come & {term.word for term in terms} and not _occurs(ahead, terms):
            raise LayoutError(
                f"{str(group)!r}: no token of this prompt is {' & '.join(map(str, terms))!r}; "
                f"it is: {line(layout, 0)}"
            )
    if not any(_occurs(ahead, terms) for terms in group.unions):
        raise LayoutError(
            f"{str(group)!r}: no generated token is read here; use generate with 2 or more "
            f"new tokens, or name a segment of the prompt: {line(layout, 0)}"
        )


def _occurs(layout: Any, terms: tuple[Term, ...]) -> bool:
    return bool(layout.may_be(Group((terms,))).any())


def refuse_unseen(layout: Any, flow: Flow, *, first_token: bool, generates: bool) -> None:
    """As `TokenLayout.check_reach`."""
    ahead = layout.ahead(generates=generates)
    rows = ahead.may_be(flow.target)
    if first_token and "generated" in flow.target.words:
        rows[:, layout.prompt_length - 1] = True
    if not (rows & ahead.reached(ahead.may_be(flow.source))).any():
        raise LayoutError(
            f"'{flow}': no row of {str(flow.target)!r} can see a token of {str(flow.source)!r}"
            f"{_within(layout)}, so nothing flows there; a flow is written 'source -> target': "
            f"first the keys, then the rows that attend to them. The prompt is: {line(layout, 0)}"
        )


def _within(layout: Any) -> str:
    """What windows there are, if all layers that are asked have one."""
    wide = [window for window in layout.windows if window is not None]
    all_have = wide and len(wide) == len(layout.windows)
    return f" in layers that look {max(wide)} tokens back" if all_have else ""


def refuse_blind(
    layout: Any,
    columns: Bool[Tensor, "batch token"],
    rows: Bool[Tensor, "batch token"],
    flow: str,
) -> None:
    """Refuse a cut of columns from rows that leaves a row no key.

    **Raises:** `LayoutError` naming the flow and the positions of such rows in a sample.
    """
    real = layout.segments != PAD
    blind = rows & ~layout.reached(real & ~columns) & real
    if blind.any():
        sample = int(blind.any(-1).nonzero()[0])
        places = blind[sample].nonzero().flatten().tolist()
        raise LayoutError(
            f"{flow!r} leaves nothing to attend to at positions {places}; take a segment out "
            "of the source, for instance bos"
        )
