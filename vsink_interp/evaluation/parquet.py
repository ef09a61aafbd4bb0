"""Benchmarks as the Hub packs them: rows of a parquet file, with their images in a column."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, final

import numpy as np
from PIL import Image

from ..errors import CapabilityError, InputError


@final
@dataclass(eq=False)
class ParquetImages:
    """The images of a parquet file; of its row groups only the last one asked stays in memory.

    The column holds `bytes` and `path`, as `datasets` writes images.
    """

    path: Path
    _file: Any = field(repr=False)
    _held: tuple[int, Any] = field(default=(-1, None), repr=False)

    def read(self, row: int) -> Image.Image:
        """The image of a row.

        **Raises:** `InputError` if there is none, or it cannot be read.
        """
        about = self._file.metadata
        sizes = [about.row_group(i).num_rows for i in range(about.num_row_groups)]
        group = int(np.searchsorted(np.cumsum(sizes), row, side="right"))
        if self._held[0] != group:
            self._held = group, self._file.read_row_group(group, columns=["image"])["image"]
        cell = self._held[1][row - sum(sizes[:group])].as_py()
        try:
            with Image.open(BytesIO(cell["bytes"])) as opened:
                opened.load()
                return opened
        except (TypeError, KeyError, OSError) as error:
            raise InputError(f"row {row} of {self.path} holds no image that can be read") from error


@final
@dataclass(frozen=True)
class ParquetImage:
    """One image of a parquet file, read when it is asked for."""

    images: ParquetImages
    row: int

    def read(self) -> Image.Image:
        """The image, as `ParquetImages.read`."""
        return self.images.read(self.row)


def parquet_rows(path: Path) -> Iterator[tuple[dict[str, Any], ParquetImage]]:
    """The rows of a file, without their images, and where these are.

    **Raises:** `CapabilityError` without the package pyarrow; `InputError` if it is no parquet file
    with a column `image`.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise CapabilityError(
            f"{path} is a parquet file, which takes the package pyarrow: "
            "pip install 'vsink-interp[data]'"
        ) from error
    try:
        file = ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise InputError(f"{path} is no parquet file that can be read: {error}") from error
    names = file.schema_arrow.names
    if "image" not in names:
        raise InputError(f"{path} has no column 'image'; it has {', '.join(names)}")
    images = ParquetImages(path, file)
    rows = file.read(columns=[name for name in names if name != "image"]).to_pylist()
    return ((row, ParquetImage(images, number)) for number, row in enumerate(rows))
