"""Keys of graphs for logs and folders of rows: their nodes, and what their functions do."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ResultError
from ..graph import EditGraph, Node

_KNOWN = ("abc", "builtins", "einops", "numpy", "torch", "typing", "vsink_interp")
"""Packages whose functions and classes their names and versions tell."""


def graph_key(graph: EditGraph) -> list[str]:
    """One line per node: its type, and a digest of what it holds.

    Functions count by their code, defaults, closure, and what they use of their module.

    **Raises:** `ResultError` for a function that uses something with no value of its own: give its
    node a `key`.
    """
    return [f"{type(node).__name__} {_digest(node)}" for node in graph]


def _digest(node: Node) -> str:
    if (key := getattr(node, "key", None)) is not None:
        return f"key={key}"
    try:
        found = repr([_held(node, ()), _held(_own_code(type(node)), ())])
    except _NoValueError as error:
        raise ResultError(
            f"{node!r} uses {error}, of which it cannot be told whether it is still the same when "
            "rows are gone on with; name what it does, as in Fn(hook, function, key='shift by 2'), "
            "and change the key with the function"
        ) from error
    return hashlib.sha256(found.encode()).hexdigest()[:16]


def _own_code(kind: type) -> list[Any]:
    """The functions of a class that somebody else wrote: it may change between two calls."""
    theirs = [one for one in kind.__mro__ if one.__module__.partition(".")[0] not in _KNOWN]
    members = [(name, _unwrapped(held)) for one in theirs for name, held in vars(one).items()]
    kept = ("__post_init__", "__call__")
    return [
        (name, held)
        for name, held in members
        if isinstance(held, FunctionType) and (not name.startswith("__") or name in kept)
    ]


def _unwrapped(member: Any) -> Any:
    found = getattr(member, "fget", None) or getattr(member, "__func__", None)
    return found or member


class _NoValueError(Exception):
    """Something that only its identity tells apart."""


def _held(value: Any, above: tuple[Any, ...]) -> Any:
    """A value as plain parts that print alike where it is alike."""
    if (found := _plain(value)) is not None:
        return found
    if any(value is one for one in above):
        return "itself"
    above = (*above, value)
    if isinstance(value, list | tuple):
        return [_held(one, above) for one in value]
    if isinstance(value, set | frozenset):
        return sorted(repr(_held(one, above)) for one in value)
    if isinstance(value, Mapping):
        return [(_held(name, above), _held(one, above)) for name, one in value.items()]
    if callable(value) and (parts := _function(value)) is not None:
        return [_held(part, above) for part in parts]
    if isinstance(value, Node) and len(above) > 1:  # in the graph of a contrast
        return [type(value).__qualname__, _digest(value)]
    if is_dataclass(value):
        named = [(field.name, getattr(value, field.name)) for field in fields(value)]
        return [type(value).__qualname__, *(_held(pair, above) for pair in named)]
    raise _NoValueError(f"a {type(value).__name__}")


_PRINTED = (
    type(None), type(...), str, bytes, int, float, complex, Enum, range, slice,
    torch.dtype, torch.device,
)  # fmt: skip


def _plain(value: Any) -> str | None:
    """A value without parts; None for others."""
    if isinstance(value, _PRINTED):
        return repr(value)
    if isinstance(value, Tensor | np.ndarray | np.generic):
        tensor = torch.as_tensor(value).detach().cpu().contiguous()
        flat = tensor.flatten().view(torch.uint8).numpy().tobytes()
        return f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(flat).hexdigest()}"
    if isinstance(value, ModuleType):
        return value.__name__
    if isinstance(value, type | BuiltinFunctionType):
        return f"{value.__module__}.{value.__qualname__}"
    return None


def _function(fn: Callable[..., Any]) -> list[Any] | None:
    """What a function does, as parts; None if it is no plain one."""
    if isinstance(fn, partial):
        return [fn.func, fn.args, fn.keywords]
    if isinstance(fn, MethodType):
        return [fn.__func__, fn.__self__]
    if not isinstance(fn, FunctionType):
        return None
    if fn.__module__.partition(".")[0] in _KNOWN:
        return [f"{fn.__module__}.{fn.__qualname__}", _cells(fn)]
    used = {name: fn.__globals__[name] for name in _names(fn.__code__) if name in fn.__globals__}
    return [_code(fn.__code__), fn.__defaults__, fn.__kwdefaults__, _cells(fn), used]


def _cells(fn: FunctionType) -> list[Any]:
    found = []
    for cell in fn.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # not filled yet
            found.append(None)
    return found


def _code(code: CodeType) -> list[Any]:
    """Its instructions and constants, without where it was written."""
    consts = [_code(one) if isinstance(one, CodeType) else one for one in code.co_consts]
    return [code.co_code, consts, code.co_names, code.co_varnames, code.co_freevars]


def _names(code: CodeType) -> Iterable[str]:
    inner = [one for one in code.co_consts if isinstance(one, CodeType)]
    return sorted({*code.co_names, *(name for one in inner for name in _names(one))})
