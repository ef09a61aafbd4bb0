"""Results in a folder: arrays as safetensors, images as PNG, the rest as JSON."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final, TypeVar, final, get_args

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load as load_arrays, save as save_arrays

from ..errors import ResultError
from ..graph import EditGraph, Node, with_stand_ins
from ..storage import (
    checksum,
    entry,
    make_folder,
    read_json,
    reading,
    refuse_format,
    write_bytes,
    write_text,
)
from . import tidy
from .result import Result

FORMAT: Final = 1
ARRAYS: Final = "result.safetensors"
TEXT: Final = "result.json"
R = TypeVar("R", bound=Result)


def save(result: Result, folder: Path) -> None:
    """Write a result; the JSON comes last, so that what is there without it is no result."""
    held = _Held()
    plain = {one.name: held.plain(one.name, getattr(result, one.name)) for one in fields(result)}
    make_folder(folder)
    for name, content in held.images.items():
        write_bytes(folder / name, content)
    write_bytes(folder / ARRAYS, save_arrays(held.arrays))
    meta = {"format": FORMAT, "class": type(result).__name__, "arrays": checksum(folder / ARRAYS)}
    write_text(folder / TEXT, json.dumps({**meta, "fields": plain}, ensure_ascii=False, indent=1))


def load(kind: type[R], folder: Path) -> R:
    """Read a result of one class, and compare the sizes of its axes."""
    path = folder / TEXT
    meta = read_json(path, f"{kind.__name__}; write one with result.save(folder)")
    refuse_format(meta, FORMAT, path)
    name = entry(meta, "class", str, path)
    if name != kind.__name__:
        raise ResultError(f"{path} holds a {name}: load it with {name}.load(folder)")
    with reading(folder / ARRAYS):
        if checksum(folder / ARRAYS) != meta["arrays"]:
            raise ResultError("these are not the arrays that were saved with this result")
        arrays = load_arrays((folder / ARRAYS).read_bytes())
    with reading(path):
        read = _Reader(arrays, folder, _classes(kind, {}))
        found = kind(**{name: read.value(one) for name, one in meta["fields"].items()})
        _check(found)
    return found


@final
@dataclass
class _Held:
    """What JSON cannot hold of a result, by name."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    images: dict[str, bytes] = field(default_factory=dict)
    shared: dict[int, int] = field(default_factory=dict)

    def plain(self, name: str, value: Any) -> Any:
        """A value as JSON, or as a reference to what is held; `name` is its place."""
        if value is None or isinstance(value, bool | int | float | str):
            return value.item() if isinstance(value, np.generic) else value
        if isinstance(value, tuple | list):
            kept = [self.plain(f"{name}.{i}", one) for i, one in enumerate(value)]
            return kept if isinstance(value, list) else {"tuple": kept}
        if isinstance(value, Mapping):
            return {"mapping": [[k, self.plain(f"{name}.{k}", one)] for k, one in value.items()]}
        if isinstance(value, EditGraph | Node):
            graph = with_stand_ins(value if isinstance(value, EditGraph) else EditGraph(value))
            return {"graph" if isinstance(value, EditGraph) else "node": graph.to_json()}
        if isinstance(value, np.ndarray | torch.Tensor):
            self.arrays[name] = np.ascontiguousarray(np.asarray(value))
            return {"array" if isinstance(value, np.ndarray) else "tensor": name}
        if isinstance(value, Image.Image):
            return {"image": self._image(value)}
        if is_dataclass(value) and not isinstance(value, type):
            return self._value(name, value)
        raise ResultError(f"{name} holds a {type(value).__name__}, which a file cannot")

    def _value(self, name: str, value: Any) -> Any:
        """A dataclass; the second time that one object occurs, which one it is."""
        if id(value) in self.shared:
            return {"again": self.shared[id(value)]}
        taken = [one.name for one in fields(value) if one.init]
        kept = {one: self.plain(f"{name}.{one}", getattr(value, one)) for one in taken}
        self.shared[id(value)] = len(self.shared)
        return {"class": type(value).__name__, "fields": kept}

    def _image(self, image: Image.Image) -> str:
        buffer = BytesIO()
        image.save(buffer, format="PNG")
        name = f"image-{hashlib.sha256(buffer.getvalue()).hexdigest()[:16]}.png"
        self.images[name] = buffer.getvalue()
        return name


@final
@dataclass
class _Reader:
    """Reads what `_Held` wrote; builds the classes that the result's annotations name, no other."""

    arrays: Mapping[str, np.ndarray]
    folder: Path
    classes: Mapping[str, type]
    images: dict[str, Image.Image] = field(default_factory=dict)
    shared: list[Any] = field(default_factory=list)

    def value(self, plain: Any) -> Any:
        if isinstance(plain, list):
            return [self.value(one) for one in plain]
        if not isinstance(plain, dict):
            return plain
        if "class" in plain:
            kept = {name: self.value(one) for name, one in plain["fields"].items()}
            self.shared.append(self.classes[plain["class"]](**kept))
            return self.shared[-1]
        ((kind, held),) = plain.items()
        if kind == "again":
            return self.shared[held]
        if kind == "tuple":
            return tuple(self.value(one) for one in held)
        if kind == "mapping":
            return {name: self.value(one) for name, one in held}
        if kind in ("graph", "node"):
            graph = EditGraph.from_json(held)
            return graph if kind == "graph" else graph[0]
        if kind in ("array", "tensor"):
            found = self.arrays[held]
            return found.copy() if kind == "array" else torch.from_numpy(found.copy())
        return self._image(held)

    def _image(self, name: str) -> Image.Image:
        if Path(name).name != name:
            raise ResultError(f"{name!r} is no file of this folder")
        if name not in self.images:
            with Image.open(self.folder / name) as shown:
                shown.load()
                self.images[name] = shown
        return self.images[name]


def _classes(kind: Any, found: dict[str, type]) -> dict[str, type]:
    """The dataclasses that the fields of a class may hold, by name."""
    for part in get_args(kind):
        _classes(part, found)
    if isinstance(kind, type) and is_dataclass(kind) and kind.__name__ not in found:
        found[kind.__name__] = kind
        for one in fields(kind):
            _classes(one.type, found)
    return found


def _check(result: Result) -> None:
    """Refuse arrays of which one axis has two sizes."""
    sizes: dict[str, int] = {}
    for one in fields(result):
        value, names = getattr(result, one.name), tidy.axes(one.type)
        if not names:
            continue
        if len(names) != value.ndim:
            raise ResultError(f"{one.name} has {value.ndim} axes, and should have {names}")
        for axis, size in zip(names, value.shape, strict=True):
            if sizes.setdefault(axis, size) != size:
                raise ResultError(
                    f"the axis {axis} is {size} long in {one.name}, else {sizes[axis]}"
                )
