"""The threshold on phi: the valley of its histogram, near the papers' 20 where that is possible."""

from dataclasses import dataclass
from math import log
from typing import Final, Literal, TypeAlias, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

PAPER_TAU: Final = 20.0
"""Kang et al.'s threshold, chosen for LLaVA-1.5-7B and found to hold in other models."""
Shape: TypeAlias = Literal["two modes", "tail", "none"]
_WINDOW: Final = 1.075
"""A place of the histogram is a window of 7.5 % to either side."""
_PULL: Final = 0.02
"""What moving off the prior by a factor of e costs, as a share of tokens in the window."""


@final
@dataclass(frozen=True)
class Threshold:
    """A threshold on phi, and how sure it is.

    **Attributes:**

    - `tau`: the threshold.
    - `shape`: `"two modes"` if tokens other than the first lie above tau as a mode of their own,
        with a valley at tau; `"tail"` if they thin out through tau, so that another tau would count
        others; `"none"` if only first tokens lie above it.
    - `ordinary`: the median phi of tokens other than the first.
    - `first`: the least phi of first tokens.
    """

    tau: float
    shape: Shape
    ordinary: float
    first: float

    def __str__(self) -> str:
        said = {
            "two modes": "other sinks are a mode of their own, with a valley at tau",
            "tail": "no valley: other tokens thin out through tau, and another tau counts others",
            "none": "no other token of the prompts lies above tau",
        }
        return (
            f"ordinary tokens have {self.ordinary:.1f}, first tokens {self.first:.1f} or more; "
            + (said[self.shape])
        )


def valley(first: Float[Tensor, " first"], rest: Float[Tensor, " token"]) -> Threshold:
    """Where to put tau between what first tokens have and what ordinary tokens have.

    The emptiest place of the histogram between the median of other tokens and the least first
    token: drawn to 20 where 20 lies between the two, else the middle of the widest such place.
    Values of phi are taken as they are: they are not scaled with the model's width.

    **Arguments:**

    - `first`: phi of first tokens, above 0, in layers where they are sinks.
    - `rest`: phi of all other tokens there; there may be none.
    """
    median, high = float(rest.median()) if len(rest) else 0.0, float(first.min())
    low = median if median < high else high / 2
    # On a log scale there is no 0, which is the median where most tokens hold nothing, or none is.
    places = torch.exp(torch.linspace(log(max(low, high * 1e-3)), log(high), 400)[1:-1])
    if low < PAPER_TAU < high:
        places = torch.cat([torch.tensor([PAPER_TAU]), places])
        cost = _crowd(rest, places) / max(len(rest), 1) + _PULL * (places / PAPER_TAU).log().abs()
        tau = float(places[cost.argmin()])
    else:
        crowd = _crowd(rest, places)
        tau = _middle_of_longest(places, crowd == crowd.min())
    return Threshold(tau, _shape(rest, tau), low, high)


def _middle_of_longest(places: Float[Tensor, " place"], empty: Bool[Tensor, " place"]) -> float:
    """The middle, on a log scale, of the longest run of places that are empty."""
    edges = torch.nn.functional.pad(empty.int(), (1, 1)).diff()
    starts, ends = (edges == 1).nonzero().flatten(), (edges == -1).nonzero().flatten()
    longest = int((ends - starts).argmax())
    first, last = places[starts[longest]], places[ends[longest] - 1]
    return float((first * last).sqrt())


def _shape(rest: Float[Tensor, " token"], tau: float) -> Shape:
    """Whether there is a mode above tau, beyond a valley."""
    above = rest[rest >= tau]
    if not len(above):
        return "none"
    here = float(_crowd(rest, torch.tensor([tau])))
    return "two modes" if here <= 0.5 * float(_crowd(rest, above).max()) else "tail"


def _crowd(values: Float[Tensor, " token"], places: Float[Tensor, " place"]) -> Tensor:
    """How many values lie in the window around each place."""
    ordered = values.sort().values
    high = torch.searchsorted(ordered, places * _WINDOW, right=True)
    return (high - torch.searchsorted(ordered, places / _WINDOW)).float()
