"""Whether what a user's edits return are numbers, read from the device when a run ends."""

from collections import defaultdict
from math import inf, isfinite, isnan
from typing import final

import torch
from torch import Tensor

from ..errors import CapabilityError
from ..graph import Edit, Site
from .node_results import where

Range = tuple[Tensor, Tensor]
"""The least and the greatest entry; NaN if there is any."""


def range_of(value: Tensor) -> Range | None:
    """The range of a value, without waiting for the device."""
    return tuple(torch.aminmax(value.detach())) if value.numel() else None


@final
class ValueRanges:
    """The ranges of values before and behind edits that run code from outside this package."""

    def __init__(self) -> None:
        self._seen: list[tuple[Edit, str, str]] = []
        self._ends: list[Tensor] = []

    def see(self, node: Edit, site: Site, before: Range | None, new: Tensor) -> None:
        """Note what an edit made of a value with this range."""
        after = range_of(new)
        if before is not None and after is not None:
            self._seen.append((node, site.hook.name, where(site)))
            self._ends += (*before, *after)

    def refuse(self, error: Exception | None = None) -> None:
        """Refuse values that are no numbers where there were numbers before.

        **Arguments:**

        - `error`: what came of it, if the run did not end.

        **Raises:** `CapabilityError` naming the first such edit, its hook point and layer.
        """
        ends = _read(self._ends)
        for at, (node, hook, place) in enumerate(self._seen):
            before, after = ends[4 * at : 4 * at + 2], ends[4 * at + 2 : 4 * at + 4]
            if _sound(hook, *before) and not _sound(hook, *after):
                raise CapabilityError(
                    f"{node!r} turned {place} into values that are NaN or infinite, and were not "
                    "before; to cut attention write -inf at attn.hook_attn_scores, and leave every "
                    "row a key"
                ) from error


def _sound(hook: str, least: float, greatest: float) -> bool:
    """Whether a model can go on with such values: scores and logits may be cut by -inf."""
    if hook == "unembed.hook_out":
        return not isnan(least)
    if hook == "attn.hook_attn_scores":
        return greatest < inf
    return isfinite(least) and isfinite(greatest)


def _read(numbers: list[Tensor]) -> list[float]:
    """The values of scalars, those of one device and precision at once."""
    alike: dict[tuple[torch.device, torch.dtype], list[int]] = defaultdict(list)
    for place, number in enumerate(numbers):
        alike[number.device, number.dtype].append(place)
    found = [0.0] * len(numbers)
    for places in alike.values():
        values = torch.stack([numbers[place] for place in places]).tolist()
        for place, value in zip(places, values, strict=True):
            found[place] = value
    return found
