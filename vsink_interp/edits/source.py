"""The source of a patch: frozen values of a hook point, and the tokens they belong to."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..errors import CapabilityError, LayoutError, ResultError
from ..graph import HookPoint, Probe, find_hook
from ..results import Recorded, Run
from ..tokens import NAMES, PAD, TokenLayout

IMAGES, ORDINALS = 2**10, 2**20
"""Larger than any number of images or tokens; used to number tokens by segment, image, place."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class Source:
    """Values of one hook point, compared and hashed by their digest.

    **Attributes:**

    - `point`: the hook point.
    - `values`: per layer, `batch query ...`; the key is None for hook points outside the layers.
    - `queries`: the tokens whose rows were recorded.
    - `layout`: the layout of the recorded run; None matches tokens by position.
    - `digest`: of values and tokens.
    """

    point: HookPoint
    values: Mapping[int | None, Tensor]
    queries: tuple[int, ...]
    layout: TokenLayout | None
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        made = sha256(repr((self.point.template, self.queries)).encode())
        for layer, value in self.values.items():
            made.update(repr((layer, value.shape, value.dtype)).encode())
            made.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        if self.layout is not None:
            made.update(_addresses(self.layout).numpy().tobytes())
        object.__setattr__(self, "digest", made.hexdigest())

    def __eq__(self, other: object) -> bool:
        """Equal values of equal tokens."""
        return isinstance(other, Source) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        shape = "x".join(map(str, next(iter(self.values.values())).shape))
        return f"<{shape} of {len(self.values)} layers, {self.digest[:10]}>"

    @property
    def layers(self) -> tuple[int | None, ...]:
        """The layers that were recorded."""
        return tuple(self.values)

    @property
    def batch(self) -> int:
        """The number of samples."""
        return next(iter(self.values.values())).shape[0]

    def counterparts(self, layout: TokenLayout) -> Int[Tensor, "batch token"]:
        """For each token of a prompt, the matching token of the source; -1 for none.

        Tokens match by segment, image and place in it, whatever stands before them: the third query
        token is the source's third query token, also behind another number of image tokens. Each
        such address is one number (`_addresses`); those of the source are sorted, and those wanted
        are looked up among them.
        """
        if self.layout is None:
            places = torch.arange(layout.length).expand(layout.batch, -1)
            return places.masked_fill(layout.segments == PAD, -1)
        wanted, known = _addresses(layout), _addresses(self.layout)
        known = known.expand(len(wanted), -1)
        order = known.argsort(-1)
        sorted_known = known.gather(1, order)
        found = torch.searchsorted(sorted_known, wanted).clamp_max(known.shape[1] - 1)
        hit = (sorted_known.gather(1, found) == wanted) & (wanted >= 0)
        return order.gather(1, found).masked_fill(~hit, -1)

    def recorded_rows(self, tokens: Int[Tensor, "batch token"]) -> Int[Tensor, "batch token"]:
        """The index among recorded rows of tokens of the source; -1 for none."""
        size = max(int(tokens.max()), *self.queries) + 2
        rows = torch.full((size,), -1)
        rows[list(self.queries)] = torch.arange(len(self.queries))
        return rows[tokens]  # -1 is the last one, which stays -1

    def picked(
        self, value: Tensor, layer: int | None, places: Int[Tensor, "batch query"]
    ) -> Tensor:
        """The recorded values of these rows, with the shape of `value` except for keys.

        **Raises:** `CapabilityError` if they have another shape.
        """
        whole, dim = self.values[layer].to(value), self.point.axes.index("query")
        keys = self.point.axes[-1] == "key"
        sizes = [(*x.shape[1:dim], *x.shape[dim + 1 : x.ndim - keys]) for x in (whole, value)]
        if sizes[0] != sizes[1]:
            raise CapabilityError(
                f"a patch of {self.point.at(layer)!r} has {sizes[0]} numbers a row, the model "
                f"{sizes[1]}; its source must be a run of the same model"
            )
        index = places.clamp_min(0).to(value.device)
        shape = [1] * whole.ndim
        shape[0], shape[dim] = index.shape
        return whole.expand(len(index), *whole.shape[1:]).take_along_dim(index.view(shape), dim)

    def check(self, layout: TokenLayout, rows: str, mask: Bool[Tensor, "batch token"]) -> None:
        """Refuse a prompt whose rows have no counterpart, or could be matched wrongly.

        **Arguments:**

        - `rows`, `mask`: the patched group, and its tokens in this prompt.

        **Raises:** `LayoutError` naming the segments that differ and those that match.
        """
        if self.batch not in (1, layout.batch):
            raise LayoutError(
                f"the source of a patch has {self.batch} samples, the prompt {layout.batch}; patch "
                "from one sample, or from as many"
            )
        wanted = layout.segments != PAD if self.point.axes[-1] == "key" else mask
        if self.layout is not None:
            self._check_lengths(layout, wanted, rows)
        places = self.recorded_rows(self.counterparts(layout))
        if (mask & (places < 0)).any():
            raise LayoutError(
                f"the source of a patch of rows {rows!r} has values of tokens {self.queries} only; "
                "record rows='all'"
            )

    def _check_lengths(self, layout: TokenLayout, wanted: Tensor, rows: str) -> None:
        assert self.layout is not None  # noqa: S101 (the caller looks)
        for sample in range(layout.batch):
            here = _lengths(layout, sample)
            there = _lengths(self.layout, sample if self.batch > 1 else 0)
            names = zip(_names(layout, sample), wanted[sample].tolist(), strict=True)
            named = {name for name, is_wanted in names if is_wanted}
            odd = sorted(n for n in named & here.keys() if here[n] != there.get(n, 0))
            if odd:
                same = [n for n in here if here[n] == there.get(n, 0)]
                raise LayoutError(
                    f"a patch of rows {rows!r} matches tokens by segment, and sample {sample} has "
                    + ", ".join(f"{here[n]} {n} tokens for {there.get(n, 0)}" for n in odd)
                    + f" of the source; of equal length are: {', '.join(same) or 'none'}"
                )


def taken(point: HookPoint, source: Run | Recorded) -> Source:
    """The values of a hook point from a run, or from a probe's record.

    **Raises:** `ResultError` if there is no record with a row per token, or more than one.
    """
    axes = ("layer",) * (point.stack is not None) + point.axes
    if isinstance(source, Recorded):
        found = {"": source} if source.axes == axes else {}
    else:
        names = {repr(n) for n in source.graph if isinstance(n, Probe) and _at(n, point)}
        records = source.records.items()
        found = {n: r for n, r in records if n.split("#")[0] in names and r.axes == axes}
    if len(found) != 1:
        raise ResultError(
            f"a patch of {point.name!r} needs one record of it with axes {axes}, and the source "
            f"has {len(found)}: {', '.join(found) or 'none'}. Run once with "
            f"probes.Activation({point.name!r})"
        )
    (record,) = found.values()
    values = record.values.detach().clone()
    layers = record.labels("layer") if point.stack else (None,)
    split = dict(zip(layers, values, strict=True)) if point.stack else {None: values}
    layout = source.layout if isinstance(source, Run) else None
    return Source(point, split, record.labels("query"), layout)


def _at(node: Probe, point: HookPoint) -> bool:
    return find_hook(node.hook) == point


def _addresses(layout: TokenLayout) -> Int[Tensor, "batch token"]:
    """Segment, image and position of every token as one number; -1 for padding."""
    kinds = layout.segments.long() * IMAGES + layout.image_index + 1
    ordinals = torch.zeros_like(kinds)
    for kind in kinds.unique():
        same = kinds == kind
        ordinals[same] = (same.long().cumsum(-1) - 1)[same]
    return (kinds * ORDINALS + ordinals).masked_fill(layout.segments == PAD, -1)


def _names(layout: TokenLayout, sample: int) -> list[str]:
    """The segment of every token, or the image that it belongs to."""
    segments = ("padding", *NAMES[1:])
    codes, images = layout.segments[sample].tolist(), layout.image_index[sample].tolist()
    return [
        segments[code] if image < 0 else f"{segments[code]}[{image}]"
        for code, image in zip(codes, images, strict=True)
    ]


def _lengths(layout: TokenLayout, sample: int) -> dict[str, int]:
    """How many tokens each segment of the prompt, and each image, of a sample has."""
    found = Counter(_names(layout, sample))
    return {name: n for name, n in found.items() if name not in ("padding", "generated")}
