"""Numbers that an edit computes with; they must be finite, or rows would become NaN."""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from ..errors import NotationError

Vector: TypeAlias = Sequence[float] | Tensor | np.ndarray
"""One number per coordinate; a node keeps a tuple."""


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
