"""The result of a run: `Run`, with one `Recorded` per probe."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from .errors import CapabilityError, ResultError, unknown
from .graph import EditGraph, Node, Probe, with_stand_ins
from .tokens import Box, ImageSpan, TokenLayout, View

if TYPE_CHECKING:
    import pandas
    import xarray


@final
@dataclass(frozen=True, eq=False)
class Recorded:
    """The record of one probe: a tensor with named axes, some of which have labels.

    **Attributes:**

    - `values`: the tensor, on the CPU.
    - `axes`: one name per axis; `layer` comes first if the probe acts on layers.
    - `coords`: the labels of some axes: layer numbers, token positions, segment names.
    """

    values: Tensor
    axes: tuple[str, ...]
    coords: Mapping[str, tuple] = field(default_factory=dict)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{a}={n}" for a, n in zip(self.axes, self.values.shape, strict=True))
        return f"Recorded({sizes})"

    def axis(self, name: str) -> int:
        """The index of an axis.

        **Raises:** `ResultError` listing the axes.
        """
        if name not in self.axes:
            raise ResultError(unknown("axis of this record", name, self.axes))
        return self.axes.index(name)

    def mean(self, *names: str) -> "Recorded":
        """The mean over one or more axes, ignoring NaN."""
        dims = [self.axis(name) for name in names]
        kept = tuple(axis for axis in self.axes if axis not in names)
        coords = {axis: labels for axis, labels in self.coords.items() if axis in kept}
        return Recorded(self.values.float().nanmean(dims), kept, coords)

    def at(self, **labels: Any) -> "Recorded":
        """Select one label of one or more axes, as in `at(layer=3, segment="image")`.

        **Raises:** `ResultError` listing the axis's labels.
        """
        record = self
        for name, label in labels.items():
            record = record._pick(name, label)
        return record

    def _pick(self, name: str, label: Any) -> "Recorded":
        (place,) = self.places(name, [label])
        kept = tuple(axis for axis in self.axes if axis != name)
        coords = {axis: found for axis, found in self.coords.items() if axis in kept}
        return Recorded(self.values.select(self.axis(name), place), kept, coords)

    def labels(self, name: str) -> tuple:
        """The labels of an axis; 0, 1, 2 ... if it has none."""
        return self.coords.get(name, tuple(range(self.values.shape[self.axis(name)])))

    def places(self, name: str, labels: Iterable[Any]) -> list[int]:
        """The indices of labels along an axis, as in `places("query", run.answer_rows)`.

        **Raises:** `ResultError` listing the axis's labels.
        """
        known = {label: place for place, label in enumerate(self.labels(name))}
        wanted = list(labels)
        if missing := [label for label in wanted if label not in known]:
            raise ResultError(unknown(f"label of {name}", missing[0], map(str, known)))
        return [known[label] for label in wanted]

    def to_xarray(self) -> "xarray.DataArray":
        """An xarray DataArray with the same axes; needs xarray."""
        xarray = _optional("xarray")
        coords = {axis: list(labels) for axis, labels in self.coords.items()}
        return xarray.DataArray(self.values.float().numpy(), dims=self.axes, coords=coords)

    def to_pandas(self) -> "pandas.DataFrame":
        """A table with one row per number: a column per axis, and `value`; needs pandas."""
        pandas = _optional("pandas")
        index = pandas.MultiIndex.from_product([self.labels(a) for a in self.axes], names=self.axes)
        flat = self.values.float().reshape(-1).numpy()
        return pandas.DataFrame({"value": flat}, index=index).reset_index()


def _optional(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CapabilityError(f"this needs {name}: pip install {name}") from error


@final
@dataclass(frozen=True, eq=False)
class Run:
    """The result of one `run` or `generate`.

    **Attributes:**

    - `ids`: the whole sequence, prompt and generated tokens, as `model.generate` returns it.
    - `logits`: after `run`, one row per prompt token; after `generate`, for each generated token
        the row that predicted it. Edits are included (`edits.Contrast` too), logits processors not.
    - `text`: the answer; a list for a batch. After `run`, the most likely next token.
    - `layout`: what every token is.
    - `words`: every token of `ids` as text.
    - `graph`: the edits and probes that ran.
    - `model`: the name of the model.
    """

    ids: Int[Tensor, "batch token"]
    logits: Float[Tensor, "batch row vocab"]
    text: str | list[str]
    layout: TokenLayout
    words: tuple[tuple[str, ...], ...]
    graph: EditGraph
    model: str
    records: Mapping[str, Recorded] = field(default_factory=dict)

    def __getitem__(self, probe: Node | type[Node] | str) -> Recorded:
        """The record of a probe, by the probe itself or, if only one, by its class or name.

        A probe that stood both before and after an edit has two: `run[f"{probe!r}#1"]` and `#2`.

        **Raises:** `ResultError` listing the probes of this run.
        """
        name = probe.__name__ if isinstance(probe, type) else probe
        name = name if isinstance(name, str) else repr(name)
        alike = [full for full in self.records if full.split("(")[0] == name]
        if name not in self.records and len(alike) > 1:
            raise ResultError(
                f"this run has {len(alike)} records of {name}; name one: {', '.join(alike)}"
            )
        name = alike[0] if name not in self.records and alike else name
        if name not in self.records:
            known = ", ".join(self.records) or "none"
            raise ResultError(
                f"this run has no record of {name}; its probes are: {known}. A probe none of whose "
                "rows occurred has no record"
            )
        return self.records[name]

    @property
    def generated(self) -> Int[Tensor, "batch new"]:
        """The ids of the generated tokens."""
        return self.ids[:, self.layout.prompt_length :]

    @property
    def answer_rows(self) -> range:
        """The positions whose rows predict the generated tokens, the first one included."""
        first = self.layout.prompt_length - 1
        return range(first, first + self.generated.shape[1])

    @property
    def counted(self) -> Bool[Tensor, "batch token"]:
        """The tokens for which the sample alone would have had rows.

        Padding is excluded, and so is the last token of an answer: it is fed back only if another
        sample's answer is longer.
        """
        generated = self.layout.mask("generated")
        followed = torch.cat([generated[:, 1:], torch.zeros_like(generated[:, :1])], 1)
        return self.layout.mask("prompt") | (generated & followed)

    def counted_rows(self, probe: Node, group: str) -> Bool[Tensor, "batch query"]:
        """Which rows of a record belong to a group and to `counted`, sample by sample."""
        rows = self.counted & self.layout.mask(group)
        return rows[:, list(self[probe].labels("query"))]

    def __repr__(self) -> str:
        return (
            f"Run(text={self.text!r}, ids={tuple(self.ids.shape)}, "
            f"probes=[{', '.join(name.split('(')[0] for name in self.records)}])"
        )

    def save(self, folder: str | Path) -> None:
        """Write the run into a folder: tensors as safetensors, the rest as JSON.

        Of an edit or probe that holds a function, or values of a run, JSON keeps the text: the
        graph that is read back shows it, and refuses to run it.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"ids": self.ids, "logits": self.logits, **layout_parts(self.layout)[0]}
        tensors |= {f"record.{i}": r.values for i, r in enumerate(self.records.values())}
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "run.safetensors")
        (folder / "run.json").write_text(json.dumps(self._meta(), indent=1))

    def _meta(self) -> dict[str, Any]:
        return {
            "format": 1,
            "model": self.model,
            "text": self.text,
            "words": self.words,
            "graph": with_stand_ins(self.graph).to_json(),
            "graph_text": repr(self.graph),
            **layout_parts(self.layout)[1],
            "records": [[name, r.axes, dict(r.coords)] for name, r in self.records.items()],
        }

    @classmethod
    def load(cls, folder: str | Path) -> "Run":
        """Read a run that `save` wrote.

        **Raises:** `ResultError` if the folder holds none.
        """
        folder = Path(folder)
        if not (folder / "run.json").exists():
            raise ResultError(f"{folder} holds no run; write one with run.save(folder)")
        meta = json.loads((folder / "run.json").read_text())
        tensors = load_file(folder / "run.safetensors")
        records = {
            name: Recorded(
                tensors[f"record.{i}"], tuple(axes), {k: tuple(v) for k, v in coords.items()}
            )
            for i, (name, axes, coords) in enumerate(meta["records"])
        }
        graph = EditGraph.from_json(meta["graph"]) if meta["graph"] else EditGraph()
        return cls(
            tensors["ids"],
            tensors["logits"],
            meta["text"],
            layout_from(meta, tensors),
            tuple(map(tuple, meta["words"])),
            graph,
            meta["model"],
            records,
        )


def layout_parts(layout: TokenLayout) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A layout, split into tensors and JSON values."""
    tensors = {
        "segments": layout.segments,
        "image_index": layout.image_index,
        "roles": layout.roles,
    }
    if layout.separators is not None:
        tensors["separators"] = layout.separators
    return tensors, {
        "prompt_length": layout.prompt_length,
        "images": [[_saved(span) for span in row] for row in layout.images],
        "sight": layout.sight,
        "digests": layout.digests,
    }


def layout_from(meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TokenLayout:
    """The layout that `layout_parts` split."""
    images = tuple(tuple(_span(*saved) for saved in row) for row in meta["images"])
    return TokenLayout(
        tensors["segments"],
        tensors["image_index"],
        tensors["roles"],
        images,
        meta["prompt_length"],
        tensors.get("separators"),
        meta.get("sight", "causal"),
        tuple(meta.get("digests", ())),
    )


def _saved(span: ImageSpan) -> list[Any]:
    views = [[*view.grid, view.box, view.newline, view.tail] for view in span.views]
    return [*span.grid, span.box, views]


def _span(rows: int, columns: int, box: list[float] | None, views: Sequence[Any] = ()) -> ImageSpan:
    """A saved image; earlier versions wrote no views."""
    found = tuple(View((r, c), _box(b), newline, tail) for r, c, b, newline, tail in views)
    return ImageSpan((rows, columns), _box(box), found)


def _box(saved: list[float] | None) -> Box | None:
    return None if saved is None else (saved[0], saved[1], saved[2], saved[3])


def join(probe: Probe, pieces: Mapping[int | None, Sequence[tuple[int, Tensor]]]) -> Recorded:
    """Join the record of a probe from its pieces: per layer, the first row and value of each pass.

    Passes are joined along `query`; keys that did not exist yet in a pass are 0. A probe without a
    `query` axis gets an axis `step` if it measured in more than one pass.
    """
    layers = [layer for layer in pieces if layer is not None]
    stacked = [_join_steps(probe.axes, pieces[layer]) for layer in pieces]
    values = torch.stack(stacked) if layers else stacked[0]
    steps = next(iter(pieces.values()))
    stepped = "query" not in probe.axes and len(steps) > 1
    axes = ("layer",) * bool(layers) + ("step",) * stepped + probe.axes
    coords: dict[str, tuple] = {"layer": tuple(layers)} if layers else {}
    if "query" in probe.axes:
        place = probe.axes.index("query")
        coords["query"] = tuple(
            row for first, value in steps for row in range(first, first + value.shape[place])
        )
    return Recorded(values, axes, coords | getattr(probe, "labels", {}))


def _join_steps(axes: tuple[str, ...], steps: Sequence[tuple[int, Tensor]]) -> Tensor:
    values = [value for _, value in steps]
    if len(values) == 1:
        return values[0]
    if "key" in axes:
        place = axes.index("key")
        values = [_widen(value, place, max(v.shape[place] for v in values)) for value in values]
    if "query" not in axes:
        return torch.stack(values)
    return torch.cat(values, axes.index("query"))


def _widen(value: Tensor, place: int, size: int) -> Tensor:
    missing = list(value.shape)
    missing[place] = size - value.shape[place]
    return torch.cat([value, value.new_zeros(missing)], place)
