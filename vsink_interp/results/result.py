"""`Result`, the one form of what experiments give, and `OneLine`, that of what they take."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL.Image import Image
from torch import Tensor

from ..errors import CapabilityError
from . import tidy

if TYPE_CHECKING:
    from typing import Self

    import pandas

SHORT = 48
"""The longest text of one field."""
PROVENANCE = "provenance"


class OneLine:
    """Something that shows as one line of text, and as a figure in a notebook.

    **Attributes:**

    - `figure`: the name of the function of `vsink_interp.plot` that draws it; empty for none.
    """

    figure: ClassVar[str] = ""

    def __repr__(self) -> str:
        """One line: numbers as they are, arrays by their shape."""
        assert is_dataclass(self)  # noqa: S101 (every subclass is one)
        shown = (
            f"{field.name}={_short(getattr(self, field.name))}"
            for field in fields(self)
            if field.name != PROVENANCE
        )
        return f"{type(self).__name__}({', '.join(shown)})"

    def plot(self, **options: Any) -> Any:
        """The matplotlib figure, as the function of `vsink_interp.plot` draws it.

        **Raises:** `CapabilityError` for what has no figure.
        """
        from .. import plot

        if not self.figure:
            raise CapabilityError(f"{type(self).__name__} has no figure; print it")
        return getattr(plot, self.figure)(self, **options)

    def _repr_html_(self) -> str:
        from ..plot.notebook import result_html

        return result_html(self)


@dataclass(frozen=True, eq=False, repr=False)
class Result(OneLine):
    """A result of an experiment: a table, a frame, a figure, a folder, and where it came from.

    **Attributes:**

    - `measured`: the attributes that hold measurements; by default all arrays and numbers.
    - `axis_labels`: the attribute with the labels of an axis, where it is not called as the axis
        in the plural; empty for an axis that is merely counted.
    - `columns`: further columns of the frame by the attribute that holds them.
    - `provenance`: the experiment, its settings and seed, digests of the cases and the model,
        versions and the time; empty for a result that was put together by hand.
    """

    measured: ClassVar[tuple[str, ...]] = ()
    axis_labels: ClassVar[Mapping[str, str]] = {}
    columns: ClassVar[Mapping[str, str]] = {}

    provenance: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def table(self) -> str:
        """The means as text, over cases with a 95 % interval; what has too many labels is averaged.

        Intervals are percentile bootstraps over cases.
        """
        return tidy.table(self)

    def to_pandas(self) -> "pandas.DataFrame":
        """One row a measurement: its name, what varied, and its value; needs the package pandas."""
        return tidy.frame(self)

    def save(self, folder: str | Path) -> None:
        """Write the result into a folder: arrays as safetensors, images as PNG, the rest as JSON.

        **Raises:** `ResultError` if it cannot be written.
        """
        from .saved_result import save

        save(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> "Self":
        """Read what `save` wrote.

        **Raises:** `ResultError` naming the file and what is wrong with it.
        """
        from .saved_result import load

        return load(cls, Path(folder))


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
