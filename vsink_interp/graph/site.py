"""`Site`: the layer, tokens and sinks that a node is given where it acts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import LayoutError
from ..tokens import Group, TokenLayout, parse_group
from .hook_points import HookPoint


@final
class TokenMasks:
    """Token masks of one run, each computed once and kept on the model's device.

    **Arguments:**

    - `layout`: all tokens that the run may reach, future ones included, on the CPU.
    - `device`: the model's device.
    """

    def __init__(self, layout: TokenLayout, device: torch.device) -> None:
        self.layout = layout
        self.device = device
        self.on_device = layout.to(device)
        self._known: dict[tuple[Group, bool], tuple[Tensor, Tensor]] = {}
        self._held: dict[tuple[Group, bool], tuple[list[bool], list[bool]]] = {}

    def _both(self, group: Group, first_token: bool) -> tuple[Tensor, Tensor]:
        key = (group, first_token)
        if key not in self._known:
            mask = self.layout.mask(group)
            if first_token and "generated" in group.words:
                mask[:, self.layout.prompt_length - 1] = True
            self._known[key] = (mask, mask.to(self.device))
        return self._known[key]

    def host(self, group: Group, first_token: bool = False) -> Bool[Tensor, "batch token"]:
        """The mask of a group on the CPU, where it can be read without waiting for the device."""
        return self._both(group, first_token)[0]

    def device_mask(self, group: Group, first_token: bool = False) -> Bool[Tensor, "batch token"]:
        """The mask of a group on the model's device."""
        return self._both(group, first_token)[1]

    def held(self, group: Group, first_token: bool = False) -> tuple[list[bool], list[bool]]:
        """Per token, whether it belongs to the group in some sample, and in every sample.

        Plain lists, because decisions in every pass and layer should not read tensors.
        """
        key = (group, first_token)
        if key not in self._held:
            mask = self.host(group, first_token)
            self._held[key] = mask.any(0).tolist(), mask.all(0).tolist()
        return self._held[key]


@final
@dataclass(frozen=True, eq=False)
class Site:
    """The place and moment at which a node acts.

    **Attributes:**

    - `hook`: the hook point.
    - `layer`: the layer, None outside the layers.
    - `masks`: the token masks of the run.
    - `first_row`, `n_rows`: the value's query rows are tokens `first_row` to
        `first_row + n_rows - 1`.
    - `n_keys`: the number of tokens that can be attended to.
    - `dims`, `tau`: the model's sink dimensions and its threshold on phi, if they are known.
    - `extras`: values and output weights of attention, for nodes with `needs_values`.
    - `phis`: the sink values of the tokens that entered this layer, pass by pass.
    - `constants`: tensors that `once` computed at this layer in this run.
    - `began`: the first token of this pass; the value may hold only some of the pass's rows.
    - `number`: which node of the graph acts here.
    """

    hook: HookPoint
    layer: int | None
    masks: TokenMasks
    first_row: int
    n_rows: int
    n_keys: int
    dims: tuple[int, ...] | None = None
    tau: float | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    phis: list[Tensor] = field(default_factory=list)
    constants: dict[Any, Tensor] = field(default_factory=dict)
    began: int = 0
    number: int | None = None

    def over(
        self, first_row: int, n_rows: int, n_keys: int, began: int, extras: Mapping[str, Any]
    ) -> "Site":
        """The site of the same node at other rows; `replace` takes five times as long."""
        other = object.__new__(Site)
        other.__dict__.update(
            self.__dict__,
            first_row=first_row,
            n_rows=n_rows,
            n_keys=n_keys,
            began=began,
            extras=extras,
        )
        return other

    @property
    def layout(self) -> TokenLayout:
        """The layout of all tokens, including those not generated yet."""
        return self.masks.layout

    @property
    def positions(self) -> Int[Tensor, "query"]:
        """The token position of each query row."""
        return torch.arange(self.first_row, self.first_row + self.n_rows, device=self.masks.device)

    @property
    def prefill(self) -> bool:
        """Whether this pass reads the prompt (and an answer given with it)."""
        return self.began < self.layout.prompt_length

    @property
    def phi(self) -> Float[Tensor, "batch seen"] | None:
        """The sink value of the tokens that entered this layer; only for nodes with `needs_phi`.

        Of all tokens so far, or only of the prompt if no node has `needs_new_phi`.
        """
        if len(self.phis) > 1:
            self.phis[:] = [torch.cat(self.phis, -1)]
        return self.phis[0] if self.phis else None

    def once(self, key: Any, compute: "Callable[[Site], Tensor]") -> Tensor:
        """A tensor that is the same in every pass of a run at this layer, computed only once.

        `compute` gets a site over all tokens that the run may reach; use the first `n_keys` of its
        result.

        **Arguments:**

        - `key`: identifies the tensor among others of this node at this layer.
        """
        own = self._own(key)
        if own not in self.constants:
            room = self.layout.length
            whole = replace(self, first_row=0, n_rows=room, n_keys=room)
            self.constants[own] = compute(whole)
        return self.constants[own]

    def _own(self, key: Any) -> Any:
        """A key that no other node of the graph has; what a group means is the same for all."""
        return key if isinstance(key, Group) else (self.number, key)

    def grown(
        self,
        key: Any,
        prefill: "Callable[[Site], Tensor]",
        append: "Callable[[Tensor], None]",
    ) -> Tensor:
        """As `once`, for a tensor that decode steps write new tokens into.

        ```text
        pass     prompt, 70 tokens    1st new token    2nd new token
        done     prefill(whole)       append(known)    append(known)
        known    of 70 tokens         of 71            of 72
        ```

        **Arguments:**

        - `prefill`: computes it, in the first pass that asks, as `compute` of `once`.
        - `append`: writes into it what the new tokens change, in each later decode step.
        """
        known = self.constants.get(self._own(key))
        if known is None:
            return self.once(key, prefill)
        if not self.prefill:
            append(known)
        return known

    def _threshold(self, tau: float | None) -> float:
        threshold = self.tau if tau is None else tau
        if not self.phis or threshold is None:
            raise LayoutError(
                f"phi is not known at {self.hook.at(self.layer)}; the node must say needs_phi"
            )
        return threshold

    def sinks(self, tau: float | None = None) -> Bool[Tensor, "batch key"]:
        """The sink tokens entering this layer: phi >= tau, padding excluded.

        **Raises:** `LayoutError` if the node does not have `needs_phi`.
        """
        threshold, phi = self._threshold(tau), self.phi
        assert phi is not None  # noqa: S101 (else there is no threshold)
        real = self.masks.device_mask(parse_group("all"))[:, : phi.shape[1]]
        found = (phi >= threshold) & real
        return torch.nn.functional.pad(found, (0, self.n_keys - phi.shape[1]))

    def sink_rows(
        self, tau: float | None, into: Float[Tensor, "batch query"], *, flipped: bool = False
    ) -> None:
        """In a decode step, write into `into` which of the rows are sinks.

        **Arguments:**

        - `flipped`: write which of them are not.

        **Raises:** `LayoutError` if the node does not have `needs_new_phi`.
        """
        threshold = self._threshold(tau)
        phi = self.phis[-1]
        if phi.shape[1] != self.n_rows:
            phi = phi[:, -self.n_rows :]
        torch.ge(phi, threshold, out=into)
        if flipped:
            into.logical_not_()

    def keys(self, group: str) -> Bool[Tensor, "batch key"]:
        """Which keys belong to a group."""
        parsed = parse_group(group)
        if "sink" not in parsed.words:
            return self.masks.device_mask(parsed)[:, : self.n_keys]
        if not parsed.grows_by_sinks:
            found = self.once(parsed, lambda whole: whole._keys_by_sinks(parsed))
            return found[:, : self.n_keys]

        def append(known: Tensor) -> None:
            # All generated tokens, for a hook function may not have asked in every step.
            phi, start = self.phi, self.layout.prompt_length
            assert phi is not None  # noqa: S101 (it was there when `known` was computed)
            new = known[:, start : phi.shape[1]]
            torch.ge(phi[:, start:], self._threshold(None), out=new)
            if parsed.takes_generated(sink=False):
                new.logical_not_()

        return self.grown(parsed, lambda whole: whole._keys_by_sinks(parsed), append)[
            :, : self.n_keys
        ]

    def _keys_by_sinks(self, group: Group) -> Bool[Tensor, "batch key"]:
        return self.masks.on_device.first(self.n_keys).mask(group, sink=self.sinks())

    def queries(self, group: str, *, first_token: bool = False) -> Bool[Tensor, "batch query"]:
        """Which of the value's query rows belong to a group.

        **Arguments:**

        - `first_token`: if the group contains `generated`, include the last prompt row, which
            predicts the first generated token.
        """
        parsed = parse_group(group)
        if "sink" in parsed.words:
            found = self.keys(group)
        else:
            found = self.masks.device_mask(parsed, first_token)
        return found[:, self.first_row : self.first_row + self.n_rows]

    def rows(self, group: str, *, first_token: bool = False) -> Bool[Tensor, "batch query"] | None:
        """As `queries`, or None if all rows belong to the group in every sample."""
        parsed = parse_group(group)
        if "sink" not in parsed.words:
            every = self.masks.held(parsed, first_token)[1]
            if all(every[self.first_row : self.first_row + self.n_rows]):
                return None
        return self.queries(group, first_token=first_token)
