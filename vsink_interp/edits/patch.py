"""Activation patching: replace values of a run by those of another run.

Also called causal tracing or interchange intervention (Vig et al. 2020). On how the choice of
prompts and metrics affects results: Zhang and Nanda (2024), arXiv 2309.16042.
"""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Bool
from torch import Tensor
from typing_extensions import override

from ..errors import LayoutError, NotationError
from ..graph import (
    HOOKS,
    Edit,
    Heads,
    HookPoint,
    Layers,
    Site,
    Sizes,
    resolve,
    resolve_layers,
    settle,
    settled,
)
from ..results import Recorded, Run
from ..tokens import TokenLayout, parse_fixed_group, parse_group
from .heads import check_heads, count_heads, heads_along
from .source import Source, taken


@final
@dataclass(frozen=True)
class Patch(Edit):
    """Replace the value of a hook point, at some tokens, by the one recorded in another run.

    Tokens are matched by segment, image and position within it. So `rows="image[0]"` puts the first
    image of one prompt into another, whatever its question; `rows="prompt"` needs segments of equal
    length. A source with one sample is used for every sample of a batch. Outside attention, a run
    patched with its own values is bit-equal.

    ```python
    resid = lmm.run(other, "What is this?", vi.probes.Activation("hook_resid_pre"))
    lmm.run(image, "What is this?", vi.Patch("hook_resid_pre", resid, "3:6", rows="image"))
    heads = lmm.run(other, "What is this?", vi.probes.Activation("attn.hook_z"))
    lmm.run(image, "What is this?", vi.Patch("attn.hook_z", heads, 3, heads=[0], positions="-1"))
    ```

    **Arguments:**

    - `hook`: a hook point with one row per token, such as `"hook_resid_pre"` or `"attn.hook_z"`.
    - `source`: a `Run` whose graph held one probe of that hook point (`Activation`, `Resid`), or
        a probe's record, whose tokens are matched by position, padding included. The values are
        copied; equality and hash go by their digest.
    - `layers`: the layers, counted from 0; each must have been recorded.
    - `rows`: the tokens to patch; generated ones only as many as the source has.
    - `heads`: the heads to patch, if the hook point has heads; all by default.
    - `positions`: restrict the rows to these positions in the prompt, in the notation of layers;
        -1 is the last. All by default.

    **Raises:** `NotationError` for a hook point or group that cannot be patched, or a layer that
    was not recorded; `ResultError` for a run without such a record. When run: `LayoutError` if
    tokens have no counterpart, saying what would work; `CapabilityError` if shapes differ.
    """

    portable: ClassVar[bool] = False
    unportable: ClassVar[str] = (
        "values of a run, which JSON cannot carry; save the run with run.save(folder) and make the "
        "patch again from Run.load(folder)"
    )

    hook: str
    source: Run | Recorded | Source
    layers: Layers = ":"
    _: KW_ONLY
    rows: str = "prompt"
    heads: Heads = None
    positions: Layers | None = None

    def __post_init__(self) -> None:
        settle(self)
        _refuse_odd(self.point)
        parse_fixed_group(self.rows, "the rows of a patch")
        if self.positions is not None:
            object.__setattr__(self, "positions", settled(self.positions, "position"))
        check_heads(self.heads)
        if self.heads is not None and not _HEADED & set(self.point.axes):
            raise NotationError(f"{self.hook!r} has no heads: {self.point.axes}")
        if not isinstance(self.source, Source):
            object.__setattr__(self, "source", taken(self.point, self.source))

    @property
    def values(self) -> Source:
        """The values that are put in place."""
        assert isinstance(self.source, Source)  # noqa: S101 (__post_init__ makes it one)
        return self.source

    @property
    @override
    def targets(self) -> tuple[str, bool] | None:
        return self.rows, False

    @override
    def resolved_layers(self, n_layers: int) -> tuple[int, ...]:
        named = resolve_layers(self.layers, n_layers)
        known = tuple(layer for layer in self.values.layers if layer is not None)
        if lacking := sorted(set(named) - set(known)):
            raise NotationError(
                f"{self!r}: layers {lacking} were not recorded; the source has {known}"
            )
        return named

    @override
    def fit(self, sizes: Sizes) -> None:
        check_heads(self.heads, count_heads(self.point, sizes))

    @override
    def check(self, layout: TokenLayout, *, generates: bool) -> None:
        layout.check_group(self.rows, generates=generates)
        wanted = self._wanted(layout)
        if not wanted.any() and "generated" not in parse_group(self.rows).words:
            raise LayoutError(f"{self!r}: none of these positions belongs to {self.rows!r}")
        self.values.check(layout, self.rows, wanted)

    def _wanted(self, layout: TokenLayout) -> Bool[Tensor, "batch token"]:
        """The tokens whose rows are patched."""
        mask = layout.mask(self.rows)
        return mask if self.positions is None else mask & _at(layout, self.positions)

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        span = slice(site.first_row, site.first_row + site.n_rows)
        rows = site.masks.host(parse_group(self.rows))[:, span]
        if self.positions is not None:
            rows = rows & _at(site.layout, self.positions)[:, span]
        if not rows.any():
            return value
        tokens = self.values.counterparts(site.layout)
        places = self.values.recorded_rows(tokens)[:, span]
        if (rows & (places < 0)).any():
            raise LayoutError(
                f"{self!r}: its source has no generated token for row {site.first_row}; generate "
                "no more tokens than the source did, or leave generated rows out"
            )
        new = self.values.picked(value, site.layer, places)
        where = rows[(...,) + (None,) * (value.ndim - 2)]
        if site.hook.axes[-1] == "key":
            keys = tokens[:, : site.n_keys]
            new = new.take_along_dim(keys.clamp_min(0)[:, None, None].to(new.device), 3)
            where = rows[:, None, :, None] & (keys >= 0)[:, None, None]
        where = where.to(value.device)
        if self.heads is not None:
            where = where & heads_along(site, self.heads, value)
        return torch.where(where, new, value)


_HEADED = {"head", "kv_head"}


def _at(layout: TokenLayout, positions: Layers) -> Bool[Tensor, "batch token"]:
    """The tokens at these positions of each sample's prompt, padding not counted."""
    found = torch.zeros_like(layout.roles)
    for sample, prompt in enumerate(layout.mask("prompt")):
        places = prompt.nonzero().flatten()
        found[sample, places[resolve(positions, len(places), "position", "the prompt")]] = True
    return found


def _refuse_odd(point: HookPoint) -> None:
    """Refuse a hook point whose value does not have one row per token."""
    if "query" not in point.axes:
        legal = ", ".join(sorted({p.name for p in HOOKS if "query" in p.axes}))
        hint = (
            "; patch hook_resid_pre of layer 0 at rows='image'"
            if "vision" in point.template
            else ""
        )
        raise NotationError(
            f"Patch({point.name!r}): its value has axes {point.axes}, no row per token{hint}. "
            f"These have: {legal}"
        )
