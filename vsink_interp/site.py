"""What a node is told about the place where it acts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .errors import LayoutError
from .hooks import HookPoint
from .segments import Group, parse_group
from .tokens import TokenLayout

parsed_group = lru_cache(maxsize=256)(parse_group)


@final
class TokenMasks:
    """The masks of one run's tokens, each computed once and kept on the model's device.

    **Arguments:**

    - `layout`: every token that the run may come to hold, on the CPU.
    - `device`: where the model computes.
    """

    def __init__(self, layout: TokenLayout, device: torch.device) -> None:
        self.layout = layout
        self.device = device
        self._known: dict[tuple[Group, bool], tuple[Tensor, Tensor]] = {}

    def _both(self, group: Group, first_token: bool) -> tuple[Tensor, Tensor]:
        key = (group, first_token)
        if key not in self._known:
            mask = self.layout.mask(group)
            if first_token and "generated" in group.words:
                mask[:, self.layout.prompt_length - 1] = True
            self._known[key] = (mask, mask.to(self.device))
        return self._known[key]

    def host(self, group: Group, first_token: bool = False) -> Bool[Tensor, "batch token"]:
        """The mask of a group on the CPU: decisions read it without waiting for the device."""
        return self._both(group, first_token)[0]

    def device_mask(self, group: Group, first_token: bool = False) -> Bool[Tensor, "batch token"]:
        """The mask of a group on the model's device."""
        return self._both(group, first_token)[1]


@final
@dataclass(frozen=True, eq=False)
class Site:
    """The place and moment at which a node acts.

    **Attributes:**

    - `hook`: the hook point.
    - `layer`: the block, None outside the blocks.
    - `masks`: the run's tokens.
    - `first_row`, `n_rows`: the query rows at hand are tokens `first_row` to
        `first_row + n_rows - 1`.
    - `n_keys`: how many tokens there are to attend to.
    - `phi`: the sink value of every token entering this block; only for nodes that ask for it.
    - `dims`, `tau`: the model's sink dimensions and its threshold on phi, where they are known.
    - `extras`: values and output weights of attention, for nodes that say `needs_values`.
    """

    hook: HookPoint
    layer: int | None
    masks: TokenMasks
    first_row: int
    n_rows: int
    n_keys: int
    phi: Float[Tensor, "batch key"] | None = None
    dims: tuple[int, ...] | None = None
    tau: float | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)

    @property
    def layout(self) -> TokenLayout:
        """What every token is, with room for those not generated yet."""
        return self.masks.layout

    @property
    def positions(self) -> Int[Tensor, "query"]:
        """The token that each query row belongs to."""
        return torch.arange(self.first_row, self.first_row + self.n_rows, device=self.masks.device)

    @property
    def prefill(self) -> bool:
        """Whether this is the pass over the prompt."""
        return self.first_row < self.layout.prompt_length

    def sinks(self, tau: float | None = None) -> Bool[Tensor, "batch key"]:
        """The sink tokens entering this block: phi >= tau, padding excluded.

        **Raises:** `LayoutError` if the node did not declare `needs_phi`.
        """
        threshold = self.tau if tau is None else tau
        if self.phi is None or threshold is None:
            raise LayoutError(
                f"phi is not known at {self.hook.at(self.layer)}; the node must say needs_phi"
            )
        real = self.masks.device_mask(parsed_group("all"))[:, : self.n_keys]
        return (self.phi >= threshold) & real

    def keys(self, group: str) -> Bool[Tensor, "batch key"]:
        """Which of the tokens that can be attended to belong to a group."""
        parsed = parsed_group(group)
        if "sink" not in parsed.words:
            return self.masks.device_mask(parsed)[:, : self.n_keys]
        sink = self.sinks()
        return self.layout.first(self.n_keys).to(sink.device).mask(parsed, sink=sink)

    def queries(self, group: str, *, first_token: bool = False) -> Bool[Tensor, "batch query"]:
        """Which of the rows at hand belong to a group.

        **Arguments:**

        - `first_token`: where the group holds `generated`, count the last prompt row too: it
            predicts the first generated token.
        """
        parsed = parsed_group(group)
        if "sink" in parsed.words:
            found = self.keys(group)
        else:
            found = self.masks.device_mask(parsed, first_token)
        return found[:, self.first_row : self.first_row + self.n_rows]
