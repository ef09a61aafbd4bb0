"""Read the weights of an ONNX file: a protobuf reader for exactly the fields that hold them.

Field numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from jaxtyping import Float

from ..errors import InputError

_GRAPH, _NODE, _INITIALIZER = 7, 1, 5
_DIMS, _TYPE, _NAME, _RAW = 1, 2, 8, 9
_INPUT, _NODE_NAME = 1, 3
_FLOAT: Final = 1
_FIXED: Final = {1: 8, 5: 4}
_Field: TypeAlias = tuple[int, int | memoryview]
_Array: TypeAlias = Float[np.ndarray, "..."]


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _fields(data: memoryview) -> Iterator[_Field]:
    """Number and value of each field of a message; a nested message is its bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == 2:
            length, at = _varint(data, at)
        elif wire in _FIXED:
            length = _FIXED[wire]
        else:
            raise InputError(f"wire type {wire} at byte {at}: this is no ONNX file")
        yield key >> 3, data[at : at + length]
        at += length


def _text(value: int | memoryview) -> str:
    return bytes(value).decode() if isinstance(value, memoryview) else str(value)


def _tensor(data: memoryview) -> tuple[str, _Array | None]:
    """Name and values of a TensorProto; no values if they are not raw fp32."""
    shape: list[int] = []
    name, kind, raw = "", 0, None
    for number, value in _fields(data):
        if number == _DIMS and isinstance(value, int):
            shape.append(value)
        elif number == _DIMS and isinstance(value, memoryview):
            at = 0
            while at < len(value):
                size, at = _varint(value, at)
                shape.append(size)
        elif number == _TYPE and isinstance(value, int):
            kind = value
        elif number == _NAME:
            name = _text(value)
        elif number == _RAW and isinstance(value, memoryview):
            raw = value
    if kind != _FLOAT or raw is None:
        return name, None
    return name, np.frombuffer(raw, "<f4").reshape(shape)


def read_onnx(path: Path) -> tuple[dict[str, _Array], dict[str, list[str]]]:
    """The fp32 initialisers of an ONNX file by name, and the inputs of its nodes by name.

    **Raises:** `InputError` if the file is no ONNX file.
    """
    graphs = [value for number, value in _fields(memoryview(path.read_bytes())) if number == _GRAPH]
    if not graphs or not isinstance(graphs[0], memoryview):
        raise InputError(f"{path} is no ONNX file: it holds no graph")
    weights: dict[str, _Array] = {}
    nodes: dict[str, list[str]] = {}
    for number, value in _fields(graphs[0]):
        if number == _INITIALIZER and isinstance(value, memoryview):
            name, values = _tensor(value)
            if values is not None:
                weights[name] = values
        elif number == _NODE and isinstance(value, memoryview):
            fields = list(_fields(value))
            name = "".join(_text(v) for n, v in fields if n == _NODE_NAME)
            nodes[name] = [_text(v) for n, v in fields if n == _INPUT]
    return weights, nodes
