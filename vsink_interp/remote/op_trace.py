"""Trace the torch operations of a node, so that a server can run them without this package.

A node is Python code that works on tensors. Here it runs once on tensors that have shapes but no
values, and every torch function that it calls on them is recorded by name. What does not depend on
the model's activations (masks, heads, random draws) is computed locally and sent as a constant. The
result is a plain list: names, numbers, tensors.

In decode every pass has one key more. A node is recorded at several numbers of keys: whole numbers
that grow with them become `a * n_keys + b`, constants that grow become prefixes of the longest.

A probe that adds up what the last two keys get, `value[..., value.shape[-1] - 2 :].sum(-1)`, is
recorded in two operations, at 70 keys and again at 71 (each with the line that it came from):

```text
["torch.Tensor.__getitem__", ({"input": "value"}, (..., slice(68, None))), {}, "probe.py:3"]
["torch.Tensor.sum",         ({"op": 0}, -1),                              {}, "probe.py:3"]
result: {"op": 1}
```

`decode_template.merge` finds them equal but for 68 and 69, and writes `{"slope": 1, "start": -2}`
in their place: the program of every decode step.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.overrides import resolve_name
from torch.utils._pytree import tree_map

from ..errors import CapabilityError

_NUMBERS = (Tensor.item, Tensor.__int__, Tensor.__float__)
_LIBRARIES = ("torch", "beartype", "jaxtyping", "einops")


@final
@dataclass(frozen=True, eq=False)
class Tape:
    """The recording of one node: its operations, the index of its result, and the result's bytes.

    `checks` are the conditions on tensors that were assumed to be false, each with its line.
    """

    ops: list[list[Any]]
    out: Any
    size: int
    checks: list[list[Any]]


class Slot(Tensor):
    """A placeholder tensor: shape, dtype and index on a tape, but no values."""

    recorder: "Recorder"
    blank: Tensor
    ref: dict[str, Any]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Record the call instead of computing it."""
        del types
        slots: list[Slot] = []
        tree_map(lambda x: slots.append(x) if isinstance(x, Slot) else None, [args, kwargs])
        return slots[0].recorder.call(func, args, kwargs or {})


@final
class Recorder:
    """Makes slots and records the operations on them; one recorder per recording.

    The truth value of a slot is unknown. It is taken to be false, except for condition number
    `yes`: see `record`.
    """

    def __init__(self, what: str, yes: int | None = None) -> None:
        self.what = what
        self.ops: list[list[Any]] = []
        self.checks: list[list[Any]] = []
        self.yes = yes

    def slot(self, blank: Tensor, ref: dict[str, Any]) -> Slot:
        """A slot for a tensor that exists only on the server."""
        made = blank.as_subclass(Slot)
        made.recorder, made.blank, made.ref = self, blank, ref
        return made

    def input(self, name: str, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Slot:
        """A slot for an input of the recording.

        In fp32, because the precision of the model on the server is unknown: nodes get fp32 there,
        and the result of an edit is converted back to the model's precision.
        """
        return self.slot(torch.empty(*shape, dtype=dtype, device="meta"), {"input": name})

    def unembed(self, n_words: int) -> Callable[[Tensor], Tensor]:
        """Record the final norm and the unembedding of residual vectors."""

        def read(resid: Tensor) -> Tensor:
            self.ops.append(["unembed", [_encode(resid)], {}, _origin()])
            blank = torch.empty(*resid.shape[:-1], n_words, device="meta")
            return self.slot(blank, {"op": len(self.ops) - 1})

        return read

    def tape(self, result: Tensor) -> Tape:
        """The recording, ending in `result`: a slot or a plain tensor."""
        size = result.numel() * result.element_size()
        return Tape(self.ops, _encode(result), size, self.checks)

    def call(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Carry out a torch function on blanks, and note it if it gives a tensor."""
        name = resolve_name(func) or getattr(func, "__qualname__", repr(func))
        if func == Tensor.device.__get__:
            return torch.device("cpu")  # so that whatever a node makes anew is a constant
        if func is Tensor.cpu:
            return args[0]
        if func is Tensor.__bool__:
            self.checks.append([_encode(args[0]), _origin()])
            return len(self.checks) - 1 == self.yes
        if self.yes is not None and func in _NUMBERS:
            return 0  # on the way to an error, for its text
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            args = (args[0], _places(args[1]), *args[2:])
        blanks = tree_map(_blank, (args, kwargs))
        try:
            with torch._C.DisableTorchFunctionSubclass():
                result = func(*blanks[0], **blanks[1])
        except (NotImplementedError, RuntimeError) as error:
            if isinstance(error, NotImplementedError) or "meta" in str(error).lower():
                raise refusal(self.what, _origin(), name) from error
            raise
        if result is not None and not _has_tensor(result):
            return result
        writes = result is None or (name.endswith("_") and not name.endswith("__"))
        if writes and not isinstance(args[0], Slot):
            raise refusal(self.what, _origin(), name)
        named = {key: _encode(part) for key, part in kwargs.items()}
        self.ops.append([name, _encode(args), named, _origin()])
        return args[0] if writes and result is not None else self._wrap(result)

    def _wrap(self, result: Any) -> Any:
        number = len(self.ops) - 1
        if isinstance(result, Tensor):
            return self.slot(result, {"op": number})
        if not isinstance(result, tuple | list):
            return result
        parts = [
            self.slot(part, {"op": number, "item": i}) if isinstance(part, Tensor) else part
            for i, part in enumerate(result)
        ]
        return type(result)(parts)  # of torch.return_types, or a plain tuple or list


def record(what: str, act: Callable[[Recorder], Tensor]) -> Tape:
    """Record what `act` does.

    A condition on a tensor that raises when it is true is a check, and is tested again on the
    server. A condition that leads to other operations cannot be recorded.

    **Raises:** `CapabilityError` naming the line that branches on values.
    """
    recorder = Recorder(what)
    tape = recorder.tape(act(recorder))
    for number, (_, origin) in enumerate(tape.checks):
        try:
            act(Recorder(what, yes=number))
        except CapabilityError:
            pass
        except Exception:  # noqa: BLE001, S112 (which error is the node's own affair)
            continue
        raise refusal(what, origin, "torch.Tensor.__bool__")
    return tape


def refusal(what: str, origin: str, name: str) -> CapabilityError:
    """The error for a line that branches on values of activations."""
    return CapabilityError(
        f"{what} cannot run remotely: {origin} ({name.removeprefix('torch.')}) branches on "
        "activations, whose values exist only on the server. Write it without `if`, .item(), "
        ".tolist() or boolean indexing on activations, for instance with torch.where"
    )


def _origin() -> str:
    """The source line that called torch: in a kernel, an edit or the user's code."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        file, name = frame.f_code.co_filename, str(frame.f_globals.get("__name__"))
        inner = file == __file__ or file.startswith("<")
        if not inner and name.split(".", maxsplit=1)[0] not in _LIBRARIES:
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


def _places(index: Any) -> Any:
    """A boolean mask in an index as its true indices, because the result's shape depends on it."""
    parts = index if isinstance(index, tuple) else (index,)
    found: list[Any] = []
    for part in parts:
        mask = isinstance(part, Tensor) and not isinstance(part, Slot) and part.dtype == torch.bool
        found += part.nonzero(as_tuple=True) if mask else [part]
    return tuple(found) if isinstance(index, tuple) or len(found) > 1 else found[0]


def _blank(value: Any) -> Any:
    if isinstance(value, Slot):
        return value.blank
    if isinstance(value, Tensor):
        return value.to("meta")
    return torch.device("meta") if isinstance(value, torch.device) else value


def _has_tensor(value: Any) -> bool:
    parts = value if isinstance(value, tuple | list) else (value,)
    return any(isinstance(part, Tensor) for part in parts)


def _encode(value: Any) -> Any:
    """A value as plain data; a value that exists only on the server becomes a small dict."""
    if isinstance(value, Slot):
        return value.ref
    if isinstance(value, torch.device):
        return {"device": True}
    if isinstance(value, tuple):
        return tuple(_encode(part) for part in value)
    if isinstance(value, list):
        return [_encode(part) for part in value]
    if isinstance(value, slice):
        return slice(_encode(value.start), _encode(value.stop), _encode(value.step))
    return value
