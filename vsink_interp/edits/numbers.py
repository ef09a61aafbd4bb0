"""Numbers that an edit computes with; they must be finite, or rows would become NaN."""

import math
import struct
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, TypeAlias, final

import numpy as np
from torch import Tensor

from ..errors import NotationError

Vector: TypeAlias = Sequence[float] | Tensor | np.ndarray
"""One number per coordinate; a node keeps a tuple."""


SHOWN = 64
"""The most numbers that a repr spells out."""


@final
class Numbers(tuple):
    """A tuple of numbers that prints in one line: a long one as how many, and their digest."""

    __slots__ = ()

    def __repr__(self) -> str:
        if len(self) <= SHOWN:
            return tuple.__repr__(self)
        digest = sha256(struct.pack(f"<{len(self)}d", *self)).hexdigest()
        return f"<{len(self)} numbers, {digest[:10]}>"


def check_finite(node: Any, *names: str) -> None:
    """Refuse fields with a number, or a tuple of numbers, that is infinite or NaN.

    **Raises:** `NotationError` naming the field.
    """
    for name in names:
        value = getattr(node, name)
        if not all(map(math.isfinite, value if isinstance(value, tuple) else (value,))):
            raise NotationError(
                f"{name} of {type(node).__name__} is a finite number, for others make rows NaN; "
                f"got {value}. To cut keys use Knockout"
            )
