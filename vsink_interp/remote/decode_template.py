"""Make one program for all decode steps from recordings at several numbers of keys."""

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor


@final
class DiffersError(Exception):
    """Recordings have different structure; the caller turns this into a `CapabilityError`."""


@final
class Constants:
    """The constant tensors of a request, each stored once."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self._known: dict[Any, int] = {}

    def add(self, tensor: Tensor) -> int:
        """The index of a tensor, which is added if it is new."""
        plain = tensor.detach().cpu().contiguous()
        bits = plain.reshape(-1).view(torch.uint8).numpy().tobytes()
        key = (plain.dtype, tuple(plain.shape), bits)
        if key not in self._known:
            self._known[key] = len(self.tensors)
            self.tensors.append(plain)
        return self._known[key]


def merge(variants: Sequence[Any], n_keys: Sequence[int], constants: Constants) -> Any:
    """Generalise recordings at some numbers of keys to every number; the last one is the largest.

    Whole numbers may grow with the number of keys, and constants along one axis; all else must be
    equal in all recordings.

    **Raises:** `DiffersError` if it is not.
    """
    first = variants[0]
    if any(type(other) is not type(first) for other in variants):
        raise DiffersError
    if isinstance(first, Tensor):
        return _tensors(variants, n_keys, constants)
    if isinstance(first, int) and not isinstance(first, bool):
        return _numbers(variants, n_keys)
    if isinstance(first, slice):
        return slice(*merge([(s.start, s.stop, s.step) for s in variants], n_keys, constants))
    if isinstance(first, dict):
        if any(other.keys() != first.keys() for other in variants):
            raise DiffersError
        return {key: merge([v[key] for v in variants], n_keys, constants) for key in first}
    if isinstance(first, tuple | list):
        if len({len(v) for v in variants}) > 1:
            raise DiffersError
        parts = [merge(p, n_keys, constants) for p in zip(*variants, strict=True)]
        return tuple(parts) if isinstance(first, tuple) else parts
    if any(repr(other) != repr(first) for other in variants):  # NaN is not itself, its repr is
        raise DiffersError
    return first


def _numbers(values: Sequence[int], n_keys: Sequence[int]) -> Any:
    if len(set(values)) == 1:
        return values[0]
    if not n_keys:
        raise DiffersError
    slope, rest = divmod(values[-1] - values[0], n_keys[-1] - n_keys[0])
    start = values[0] - slope * n_keys[0]
    if rest or any(v != slope * n + start for v, n in zip(values, n_keys, strict=True)):
        raise DiffersError
    return {"slope": slope, "start": start}


def _tensors(values: Sequence[Tensor], n_keys: Sequence[int], constants: Constants) -> Any:
    longest = values[-1]
    if all(_same(v, longest) for v in values):
        return {"constant": constants.add(longest)}
    grows = [axis for axis in range(longest.ndim) if values[0].shape[axis] != longest.shape[axis]]
    if len(grows) != 1 or any(v.ndim != longest.ndim or v.dtype != longest.dtype for v in values):
        raise DiffersError
    axis = grows[0]
    for value in values:
        size = value.shape[axis]
        if size > longest.shape[axis] or not _same(value, longest.narrow(axis, 0, size)):
            raise DiffersError
    length = _numbers([v.shape[axis] for v in values], n_keys)
    return {"constant": constants.add(longest), "axis": axis, "length": length}


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())  # NaN is NaN
