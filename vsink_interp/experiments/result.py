"""What the results of all experiments share: one line of text, and a figure in a notebook."""

from dataclasses import fields, is_dataclass
from typing import Any, ClassVar

import numpy as np
from PIL.Image import Image
from torch import Tensor

from ..errors import CapabilityError

SHORT = 48
"""The longest text of one field."""


class Result:
    """A result of an experiment.

    **Attributes:**

    - `figure`: the name of the function of `vsink_interp.plot` that draws it; empty for none.
    """

    figure: ClassVar[str] = ""

    def __repr__(self) -> str:
        """One line: numbers as they are, arrays by their shape."""
        assert is_dataclass(self)  # noqa: S101 (every subclass is one)
        shown = (f"{field.name}={_short(getattr(self, field.name))}" for field in fields(self))
        return f"{type(self).__name__}({', '.join(shown)})"

    def plot(self, **options: Any) -> Any:
        """The matplotlib figure of this result, as the function of `vsink_interp.plot` draws it.

        **Raises:** `CapabilityError` for a result without a figure.
        """
        from .. import plot

        if not self.figure:
            raise CapabilityError(f"{type(self).__name__} has no figure; print it")
        return getattr(plot, self.figure)(self, **options)

    def _repr_html_(self) -> str:
        from ..plot.notebook import result_html

        return result_html(self)


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray | Tensor):
        return f"<{'x'.join(map(str, value.shape)) or 'one'} {str(value.dtype).split('.')[-1]}>"
    if isinstance(value, Image):
        return f"<image {value.width}x{value.height}>"
    if isinstance(value, tuple | list) and (len(value) > 8 or _holds_arrays(value)):
        return f"<{len(value)} {type(value[0]).__name__}>"
    text = repr(value)
    return text if len(text) <= SHORT else f"{text[: SHORT - 1]}…"


def _holds_arrays(values: Any) -> bool:
    return any(isinstance(one, np.ndarray | Tensor | Image) for one in values)
