"""Datasets on disk, as the package `datasets` writes them with `save_to_disk`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final, final

from PIL import Image

from ..errors import CapabilityError, InputError
from ..storage import read_json

STATE: Final = "state.json"
SPLITS: Final = "dataset_dict.json"


@final
@dataclass(frozen=True, eq=False)
class ArrowImage:
    """One image of a dataset, decoded when it is asked for.

    **Attributes:**

    - `cell`: its bytes, or the path of its file.
    - `where`: names it in errors.
    """

    cell: Mapping[str, Any]
    where: str

    def read(self) -> Image.Image:
        """The image.

        **Raises:** `InputError` if it cannot be read.
        """
        content, path = self.cell.get("bytes"), self.cell.get("path")
        try:
            with Image.open(BytesIO(content) if content else path or "") as opened:
                opened.load()
                return opened
        except OSError as error:
            raise InputError(f"{self.where} holds no image that can be read: {error}") from error


def is_dataset(folder: Path) -> bool:
    """Whether `datasets` wrote this folder."""
    return any((folder / name).is_file() for name in (STATE, SPLITS))


def dataset_rows(folder: Path) -> Iterator[tuple[dict[str, Any], ArrowImage]]:
    """The rows of a dataset, of all its splits one after another, each with its image.

    Files are mapped into memory and read a batch at a time.

    **Raises:** `CapabilityError` without the package pyarrow; `InputError` if a file cannot be
    read, or there is no column `image`.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise CapabilityError(
            f"{folder} is a dataset on disk, which takes the package pyarrow: "
            "pip install 'vsink-interp[data]'"
        ) from error
    for path in _files(folder):
        try:
            with pyarrow.memory_map(str(path)) as file, pyarrow.ipc.open_stream(file) as batches:
                for number, batch in enumerate(batches):
                    yield from _rows(batch, f"{path}, batch {number}")
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{path} is no file of a dataset on disk: {error}") from error


def _rows(batch: Any, where: str) -> Iterator[tuple[dict[str, Any], ArrowImage]]:
    if "image" not in batch.schema.names:
        raise InputError(f"{where} has no column 'image'; it has {', '.join(batch.schema.names)}")
    for place in range(batch.num_rows):
        row = batch.slice(place, 1).to_pylist()[0]
        image = row.pop("image")
        if not isinstance(image, Mapping):
            raise InputError(f"{where}, row {place}: the column 'image' holds no image")
        yield row, ArrowImage(image, f"{where}, row {place}")


def _files(folder: Path) -> Iterator[Path]:
    if (folder / SPLITS).is_file():
        for split in read_json(folder / SPLITS, "splits of a dataset").get("splits", ()):
            yield from _files(folder / split)
        return
    state = read_json(folder / STATE, "dataset on disk")
    for one in state.get("_data_files", ()):
        yield folder / one["filename"]
