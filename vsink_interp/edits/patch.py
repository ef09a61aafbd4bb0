"""Activation patching: values of another run in the place of this run's.

Also called causal tracing or interchange intervention (Vig et al. 2020). On the choice of prompts
and metrics, which changes what one finds: Zhang and Nanda (2024), arXiv 2309.16042.
"""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from ..errors import LayoutError, NotationError
from ..graph import (
    HOOKS,
    Edit,
    HookPoint,
    Layers,
    Site,
    check_layers,
    find_hook,
    freeze,
    parsed_group,
    resolve_layers,
)
from ..results import Recorded, Run
from ..tokens import TokenLayout, parse_group
from .source import Source, taken


@final
@dataclass(frozen=True)
class Patch(Edit):
    """Replace the value of a hook point, at some tokens, by the one recorded in another run.

    Tokens are matched by what they are: the n-th token of the same segment, and of the same image.
    So `rows="image[0]"` puts the first image of one prompt into another whatever its question,
    and `rows="prompt"` needs segments of equal length. A source of one sample is given to every
    sample of a batch. Recorded in full and patched into itself, a run keeps every bit outside
    attention.

    ```python
    other = lmm.run(image, question, vi.probes.Activation("hook_resid_pre"))
    lmm.run(encoding, graph=Patch("hook_resid_pre", other, "8:12", rows="image"))
    ```

    **Arguments:**

    - `hook`: a hook point with rows of tokens, such as `"hook_resid_pre"` or `"attn.hook_z"`.
    - `source`: a `Run` whose graph held one probe of that hook point (`Activation`, `Resid`), or
        what a probe recorded: then tokens are matched by position, padding included. The values
        are copied; equality and hash go by their digest.
    - `layers`: the layers, counted from 0; each must have been recorded.
    - `rows`: the tokens. Generated ones only where they are named, and only as many as the source
        has.

    **Raises:** `NotationError` for a hook point or group that cannot be patched, or a layer that
    was not recorded; `ResultError` for a run without such a record. When run: `LayoutError` if
    tokens have no counterpart, with what would work; `CapabilityError` if shapes differ.
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

    def __post_init__(self) -> None:
        freeze(self, "layers")
        _refuse_odd(find_hook(self.hook))
        check_layers(self.layers)
        if "sink" in parse_group(self.rows).words:
            raise NotationError("the rows of a patch cannot depend on sinks")
        if not isinstance(self.source, Source):
            object.__setattr__(self, "source", taken(find_hook(self.hook), self.source))

    @property
    def values(self) -> Source:
        """What is put in place."""
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
    def check(self, layout: TokenLayout, *, generates: bool) -> None:
        layout.check_group(self.rows, generates=generates)
        self.values.check(layout, self.rows)

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        span = slice(site.first_row, site.first_row + site.n_rows)
        rows = site.masks.host(parsed_group(self.rows))[:, span]
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
        return torch.where(where.to(value.device), new, value)


def _refuse_odd(point: HookPoint) -> None:
    """Refuse a hook point whose value has no row per token."""
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
