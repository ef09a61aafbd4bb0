"""Which entries of a record count (padding and ended answers do not), and tokens' positions."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..errors import ResultError
from ..graph import Probe
from ..tokens import TokenLayout, Window, parse_group
from .recorded import Recorded, row_axis


def counted(record: Recorded, probe: Probe, layout: TokenLayout) -> Recorded:
    """The record, told which of its entries count.

    - `query`, or `token` of a token's own value: rows of the group that the probe asks for, that
        are no padding, that the sample alone would have had too, and that can see what the probe
        is about;
    - `key`, and `patch` beside `query` (the image tokens of a sample in order): keys that there
        are and that the row can see;
    - `segment`: groups of which the row can see a token;
    - `step`: passes in which the sample's answer still went on.

    **Arguments:**

    - `layout`: what every token of the run is.
    """
    if "batch" not in record.axes or record.values.shape[record.axis("batch")] != layout.batch:
        return record
    along = rows_of(record)
    if along is None:
        return _without_rows(record, layout)
    rows = list(record.labels(along))
    asked = layout.read if probe.targets is None else layout.read & layout.mask(probe.targets[0])
    record = record.only(asked[:, rows], "batch", along)
    if {"key", "patch"} & {*record.axes}:
        axis = token_axis(record)
        size = record.values.shape[record.axis(axis)]
        if size <= layout.length:  # else a probe's own axis, of which nothing is known

            def tokens(window: Window) -> Bool[Tensor, "batch row entry"]:
                return _tokens_seen(layout, rows, axis, window)[:, :, :size]

            record = _only_seen(record, layout, tokens, "batch", along, axis)
    if (about := probe.about) is not None:

        def seeing(window: Window) -> Bool[Tensor, "batch row"]:
            return _groups_seen(layout, rows, (about,), window)[..., 0]

        record = _only_seen(record, layout, seeing, "batch", along)
    groups = getattr(probe, "groups", ())
    if groups and "segment" in record.axes:

        def of_groups(window: Window) -> Bool[Tensor, "batch row segment"]:
            return _groups_seen(layout, rows, groups, window)

        record = _only_seen(record, layout, of_groups, "batch", along, "segment")
    return record


def _only_seen(
    record: Recorded,
    layout: TokenLayout,
    seen: Callable[[Window], Bool[Tensor, "..."]],
    *axes: str,
) -> Recorded:
    """The record in which only what a row can see counts, in layers with a window within it."""
    if not layout.windows or "layer" not in record.axes:
        return record.only(seen("any"), *axes)
    windows = [layout.windows[layer] for layer in record.labels("layer")]
    known = {window: seen(window) for window in dict.fromkeys(windows)}
    if len(known) == 1:
        return record.only(known[windows[0]], *axes)
    return record.only(torch.stack([known[window] for window in windows]), "layer", *axes)


def _tokens_seen(
    layout: TokenLayout, rows: list[int], axis: str, window: Window
) -> Bool[Tensor, "batch row entry"]:
    seen = layout.visible(rows, window)
    if axis != "patch":
        return seen
    places = layout.positions("image")
    index = places.clamp_min(0)[:, None].expand(-1, len(rows), -1)
    return seen.gather(2, index) & (places >= 0)[:, None]


def _groups_seen(
    layout: TokenLayout, rows: list[int], groups: Sequence[str], window: Window
) -> Bool[Tensor, "batch row group"]:
    found = [layout.reached(layout.may_be(parse_group(group)), window) for group in groups]
    return torch.stack([one[:, rows] for one in found], -1)


def _without_rows(record: Recorded, layout: TokenLayout) -> Recorded:
    if "step" in record.axes:
        steps = record.values.shape[record.axis("step")]
        later = layout.read[:, layout.first_pass : layout.first_pass + steps - 1]
        began = torch.ones(layout.batch, 1, dtype=torch.bool)
        record = record.only(torch.cat([began, later], 1), "batch", "step")
    if "key" in record.axes:
        size = record.values.shape[record.axis("key")]
        record = record.only(layout.mask("all")[:, :size], "batch", "key")
    return record


def rows_of(record: Recorded) -> str | None:
    """The axis of a record whose labels are the tokens that were read; None if there is none."""
    axis = row_axis(record.axes)
    return axis if axis == "query" or axis in record.coords else None


def token_axis(record: Recorded) -> str:
    """The axis along which a record has one entry per token: of keys before that of rows.

    **Raises:** `ResultError` if it has none.
    """
    for axis in ("key", "patch", "query", "token"):
        if axis in record.axes and "batch" in record.axes:
            return axis
    raise ResultError(
        f"this record has no entries of tokens, only the axes {', '.join(record.axes)}"
    )


def token_places(record: Recorded, layout: TokenLayout, group: str) -> Int[Tensor, "batch place"]:
    """Where the tokens of a group lie along that axis, sample by sample, in order; -1 for none."""
    axis, positions = token_axis(record), layout.positions(group)
    if axis == "patch":
        image = layout.mask("image")
        known = _or_none(image.cumsum(-1) - 1, image)
    else:
        labels = torch.tensor(record.labels(axis))
        known = torch.full((layout.length,), -1)
        known[labels] = torch.arange(len(labels))
        known = known.expand(layout.batch, -1)
    return _or_none(known.gather(1, positions.clamp_min(0)), positions >= 0)


def _or_none(
    places: Int[Tensor, "batch token"], there: Bool[Tensor, "batch token"]
) -> Int[Tensor, "batch token"]:
    return places.masked_fill(~there, -1)
