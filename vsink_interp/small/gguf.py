"""Read a GGUF file: its metadata, and its tensors of the types Q4_1, Q8_0 and F32 as fp32.

The format is that of llama.cpp: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Float

from ..errors import InputError

_NUMBERS: Final = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_BLOCK: Final = 32


class _Entry(NamedTuple):
    """Where a tensor lies: its shape, slowest axis first, its type and its first byte."""

    shape: tuple[int, ...]
    kind: int
    start: int


class GgufFile:
    """A GGUF file, open for reading.

    **Attributes:**

    - `metadata`: what the file says of itself.
    - `entries`: its tensors, by name.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._at = 0
        if self._bytes[:4] != b"GGUF" or self._number("I", 4) not in (2, 3):
            raise InputError(f"{path} is no GGUF file of version 2 or 3")
        tensors, pairs = self._number("Q"), self._number("Q")
        self.metadata: dict[str, Any] = {}
        for _ in range(pairs):
            name = self._string()
            self.metadata[name] = self._value(self._number("I"))
        self.entries = dict(self._entry() for _ in range(tensors))
        step = self.metadata.get("general.alignment", 32)
        self._data = -(-self._at // step) * step

    def _number(self, code: str, at: int | None = None) -> Any:
        start = self._at if at is None else at
        (value,) = struct.unpack_from("<" + code, self._bytes, start)
        self._at = start + struct.calcsize(code)
        return value

    def _string(self) -> str:
        length = self._number("Q")
        self._at += length
        return self._bytes[self._at - length : self._at].decode()

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            inner, count = self._number("I"), self._number("Q")
            return [self._value(inner) for _ in range(count)]
        return self._number(_NUMBERS[kind])

    def _entry(self) -> tuple[str, _Entry]:
        name = self._string()
        shape = tuple(self._number("Q") for _ in range(self._number("I")))
        return name, _Entry(shape[::-1], self._number("I"), self._number("Q"))

    def tensor(self, name: str) -> Float[np.ndarray, "..."]:
        """A tensor in fp32, the slowest axis first.

        **Raises:** `InputError` for a type that is not read here.
        """
        shape, kind, start = self.entries[name]
        if kind not in _TYPES:
            raise InputError(f"{name} has the GGML type {kind}; read are {sorted(_TYPES)}")
        size, decode = _TYPES[kind]
        count = int(np.prod(shape))
        length = count * 4 if kind == 0 else count // _BLOCK * size
        raw = np.frombuffer(self._bytes, np.uint8, length, self._data + start)
        return decode(raw.reshape(-1, size)).reshape(shape)


def _f32(raw: np.ndarray) -> np.ndarray:
    return raw.copy().view("<f4")


def _q8_0(raw: np.ndarray) -> np.ndarray:
    """Blocks of an fp16 scale and 32 signed bytes."""
    scale = raw[:, :2].copy().view("<f2").astype(np.float32)
    return scale * raw[:, 2:].copy().view(np.int8)


def _q4_1(raw: np.ndarray) -> np.ndarray:
    """Blocks of an fp16 scale and least value, and 32 half-bytes: low halves first."""
    scale, least = (raw[:, i : i + 2].copy().view("<f2").astype(np.float32) for i in (0, 2))
    halves = np.concatenate([raw[:, 4:] & 15, raw[:, 4:] >> 4], axis=1)
    return scale * halves + least


_TYPES: Final[dict[int, tuple[int, Callable[[np.ndarray], np.ndarray]]]] = {
    0: (4, _f32),
    3: (20, _q4_1),
    8: (34, _q8_0),
}
"""GGML type: bytes of a block, and what makes numbers of blocks."""
