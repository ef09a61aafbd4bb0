"""`Run`: the result of one run."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import ResultError
from ..graph import EditGraph, Node, with_stand_ins
from ..storage import make_folder, read_json, reading, refuse_format, write_text
from ..tokens import TokenLayout
from .counting import rows_of, token_axis, token_places
from .recorded import Recorded
from .saving import layout_from, layout_parts, record_parts, record_tensors, records_from
from .sink_tokens import SinkTokens, sink_tokens
from .words import WORD


@final
@dataclass(frozen=True, eq=False)
class Run:
    """The result of one `run` or `generate`.

    ```python
    run = lmm.generate(image, "What is this?", vi.probes.SegmentMass(), max_new_tokens=4)
    run.text, run.layout, run[vi.probes.SegmentMass]
    ```

    **Attributes:**

    - `ids`: the whole sequence, prompt and generated tokens, as `model.generate` returns it.
    - `logits`: after `run`, one row per token; after `generate`, `logits[:, i]` is the row that
        predicted `generated[:, i]`. Edits are included (`edits.Contrast` too), logits processors
        not.
    - `text`: the answer; a list for a batch. After `run`, the most likely next token.
    - `layout`: what every token is.
    - `words`: every token of `ids` as text.
    - `graph`: the edits and probes that ran.
    - `model`: the name of the model.
    - `tau`: the threshold of the model's sinks, where it was known.
    """

    ids: Int[Tensor, "batch token"]
    logits: Float[Tensor, "batch row vocab"]
    text: str | list[str]
    layout: TokenLayout
    words: tuple[tuple[str, ...], ...]
    graph: EditGraph
    model: str
    records: Mapping[str, Recorded] = field(default_factory=dict)
    tau: float | None = None

    def __getitem__(
        self, probe: Node | type[Node] | str | tuple[Node | type[Node] | str, str]
    ) -> Recorded:
        """The record of a probe, by the probe itself or, if only one, by its class or name.

        A probe that stood both before and after an edit has two: `run[f"{probe!r}#1"]` and `#2`. A
        lens has two as well: `run[lens]` is the probability, `run[lens, "word"]` the word.

        **Raises:** `ResultError` listing the probes of this run.
        """
        if isinstance(probe, tuple):
            return self._words_of(*probe)
        name = self._named(probe)
        if name not in self.records:
            known = ", ".join(self.records) or "none"
            raise ResultError(
                f"this run has no record of {name}; its probes are: {known}. A probe none of whose "
                "rows occurred has no record"
            )
        return self.records[name]

    def _words_of(self, probe: Node | type[Node] | str, part: str) -> Recorded:
        found = f"{self._named(probe)}{WORD}"
        if part != WORD[1:] or found not in self.records:
            raise ResultError(
                f"the record of {probe!r} has no part {part!r}: a part is 'word', and those of "
                "probes.LogitLens have it"
            )
        return self.records[found]

    def _named(self, probe: Node | type[Node] | str) -> str:
        """The name of a record as it is kept."""
        name = probe.__name__ if isinstance(probe, type) else probe
        name = name if isinstance(name, str) else repr(name)
        alike = [
            full for full in self.records if full.split("(")[0] == name and not full.endswith(WORD)
        ]
        if name not in self.records and len(alike) > 1:
            raise ResultError(
                f"this run has {len(alike)} records of {name}; name one: {', '.join(alike)}"
            )
        return alike[0] if name not in self.records and alike else name

    def of(
        self,
        probe: Node | type[Node] | str | Recorded,
        tokens: str | None = None,
        *,
        rows: str | None = None,
    ) -> Recorded:
        """The entries of a record that belong to a group of tokens, or are of rows of a group.

        ```python
        graph = vi.probes.SinkValue() | vi.probes.AttentionMaps()
        run = lmm.generate(image, "What is this?", graph, max_new_tokens=4)
        phi = run.of(vi.probes.SinkValue(), "image[0]")  # [layer batch token]
        looked = run.of(vi.probes.AttentionMaps(), "image[0]", rows="generated").mean("query")
        ```

        Entry k along `token` is the k-th token of the group in each sample, wherever it stands
        there, in every record and family; of an image it is image token k, as `ImageSpan` counts
        them. It does not count in samples that have fewer, nor where it was not recorded.

        **Arguments:**

        - `probe`: as `run[probe]` takes it, or a record of this run.
        - `tokens`: a group such as `"image[0]"` or `"query"`. In a record of what rows read of
            keys it names keys; in any other, the tokens whose rows were read. Their axis, `key`,
            `patch` or `query`, becomes `token`.
        - `rows`: a group of rows; only theirs count along `query`, or `token`.

        **Raises:** `ResultError` if the record has no such axis, or nothing of the group;
        `LayoutError` if no prompt has a token of it.
        """
        record = probe if isinstance(probe, Recorded) else self[probe]
        if rows is not None:
            self.layout.check_group(rows, generates=False)
            along = self._rows_of(record)
            mask = self.layout.mask(rows)[:, list(record.labels(along))]
            record = record.only(mask, "batch", along)
        if tokens is None:
            return record
        self.layout.check_group(tokens, generates=False)
        axis, places = token_axis(record), token_places(record, self.layout, tokens)
        if bool((places < 0).all()):
            raise ResultError(
                f"{probe!r} recorded nothing of {tokens!r} along {axis!r}; name its rows or keys, "
                "or record rows='all'"
            )
        return record.gathered(axis, places, "token")

    def answering(self, probe: Node | type[Node] | str) -> Recorded:
        """A record at the rows that predict the answer; of a shorter answer, up to its end.

        Row i along `query`, or `token`, predicts `generated[:, i]`. The first is a row of the
        prompt, so `rows="query generated"` has them all.

        **Raises:** `ResultError` if one of these rows was not recorded.
        """
        record = self[probe]
        along = self._rows_of(record)
        return record.taken(along, self.answer_rows).only(self.answered, "batch", along)

    def _rows_of(self, record: Recorded) -> str:
        """The axis of the rows of a record; `query` for one that has none, which is refused."""
        return rows_of(record) or "query"

    def sinks(self, layer: int, *, tau: float | int | None = None, sample: int = 0) -> SinkTokens:
        """The visual sinks entering a layer: token, image, box in pixels and phi of each.

        ```python
        run = lmm.run(image, prompt, vi.probes.SinkValue())
        print(run.sinks(layer=5).topk(10))
        ```

        **Arguments:**

        - `tau`: the least phi of a sink; the model's own by default, 0 for every image token.
        - `sample`: which sample of a batch.

        **Raises:** `ResultError` for a run that recorded no `probes.SinkValue`, or not at this
        layer or of the image, and where no threshold is known.
        """
        threshold = self.tau if tau is None else tau
        record = self["SinkValue"].at(layer=layer)
        if threshold is None:
            raise ResultError("no threshold is known for this run: name one, tau=...")
        values = record.masked[sample].tolist()
        phi = dict(zip(record.labels("token"), values, strict=True))
        whole = sink_tokens(self.layout, sample, phi, layer)
        if not whole:
            raise ResultError(
                f"sample {sample} has no image token whose phi was recorded; record "
                "probes.SinkValue() of a prompt with an image"
            )
        return SinkTokens(tuple(one for one in whole if one.phi >= threshold), layer)

    @property
    def generated(self) -> Int[Tensor, "batch new"]:
        """The ids of the generated tokens; after `run`, of the answer that was read."""
        return self.ids[:, self.layout.answer_start :]

    @property
    def answered(self) -> Bool[Tensor, "batch new"]:
        """Which of `generated` belong to an answer: what follows the end of a shorter one does not.

        So it says which of `answer_rows` count.
        """
        return self.layout.mask("generated")[:, self.layout.answer_start :]

    @property
    def answer_rows(self) -> range:
        """The positions whose rows predict the generated tokens, the first one included."""
        return range(self.layout.answer_start - 1, self.layout.length - 1)

    def __repr__(self) -> str:
        names = [name.split("(")[0] for name in self.records if not name.endswith(WORD)]
        return f"Run(text={self.text!r}, ids={tuple(self.ids.shape)}, probes=[{', '.join(names)}])"

    def _repr_html_(self) -> str:
        from ..plot.notebook import run_html

        return run_html(self)

    def save(self, folder: str | Path) -> None:
        """Write the run into a folder: tensors as safetensors, the rest as JSON.

        Of an edit or probe that holds a function, or values of a run, JSON keeps the text: the
        graph that is read back shows it, and refuses to run it.
        """
        folder = make_folder(folder)
        tensors = {"ids": self.ids, "logits": self.logits, **layout_parts(self.layout)[0]}
        tensors |= record_tensors(self.records)
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "run.safetensors")
        write_text(folder / "run.json", json.dumps(self._meta(), indent=1))

    def _meta(self) -> dict[str, Any]:
        return {
            "format": 1,
            "model": self.model,
            "text": self.text,
            "tau": self.tau,
            "words": self.words,
            "graph": with_stand_ins(self.graph).to_json(),
            "graph_text": repr(self.graph),
            **layout_parts(self.layout)[1],
            "records": record_parts(self.records),
        }

    @classmethod
    def load(cls, folder: str | Path, *, trusted: Iterable[str] = ()) -> "Run":
        """Read a run that `save` wrote; `trusted` as `EditGraph.load` takes it.

        **Raises:** `ResultError` naming the file and what is wrong with it, also if there is none.
        """
        from .checks import check_run

        path = Path(folder) / "run.json"
        meta = read_json(path, "run; write one with run.save(folder)")
        refuse_format(meta, 1, path)
        with reading(path.with_suffix(".safetensors")):
            tensors = load_file(path.with_suffix(".safetensors"))
        with reading(path):
            run = cls._from(meta, tensors, trusted)
            check_run(run)
        return run

    @classmethod
    def _from(
        cls, meta: Mapping[str, Any], tensors: Mapping[str, Tensor], trusted: Iterable[str]
    ) -> "Run":
        saved = meta["graph"]
        graph = EditGraph.from_json(saved, trusted=trusted) if saved else EditGraph()
        return cls(
            tensors["ids"],
            tensors["logits"],
            meta["text"],
            layout_from(meta, tensors),
            tuple(map(tuple, meta["words"])),
            graph,
            meta["model"],
            records_from(meta["records"], tensors),
            meta.get("tau"),
        )
