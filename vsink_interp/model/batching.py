"""`batch_size=`: split a list of prompts into batches, and join the results into one run."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..graph import EditGraph, Graphlike, Probe, as_graph
from ..results import WORD, Recorded, Run, counted, rows_of
from ..tokens import PAD, TokenLayout
from .encoding import Encoding
from .messages import is_conversation


def in_batches(
    lmm: Any,
    ask: Callable[..., Run],
    asked: tuple[Any, Any, Graphlike],
    size: int,
    how: Mapping[str, Any],
) -> Run:
    """Ask in batches of at most `size` prompts, and join what comes back.

    **Arguments:**

    - `ask`: `run` or `generate` of the model.
    - `asked`: images, prompts and graph, as it takes them.
    - `how`: its other arguments.

    **Raises:** `InputError` for what is no list of prompts, a size below one, a job on a server, or
        a probe whose records have no axis `batch` to be joined along.
    """
    image, prompt, graph = asked[0], asked[1], as_graph(asked[2])
    many = isinstance(prompt, list | tuple) and not is_conversation(prompt)
    if isinstance(image, Encoding) or not many:
        raise InputError("batch_size splits a list of prompts; without it a run takes them at once")
    if size < 1 or not prompt:
        raise InputError(f"batch_size={size} for {len(prompt)} prompts: both are at least 1")
    if lmm.backend.later(how["remote"]):
        raise InputError("batch_size waits for each batch, and a job does not; leave one out")
    _refuse_unjoined(graph)
    images = list(image) if isinstance(image, list | tuple) else [image] * len(prompt)
    if len(images) != len(prompt):
        raise InputError(f"{len(images)} images for {len(prompt)} prompts; one entry per prompt")
    from tqdm.auto import tqdm

    starts = range(0, len(prompt), size)
    shown = tqdm(starts, desc="batches", disable=len(starts) < 2 or None, leave=False)
    runs = [ask(images[i : i + size], list(prompt[i : i + size]), graph, **how) for i in shown]
    config = lmm.hf_model.generation_config
    pad = lmm.tokenizer.pad_token_id if config.pad_token_id is None else config.pad_token_id
    return joined(runs, (pad or 0, lmm.tokenizer.decode([pad or 0])))


def _refuse_unjoined(graph: EditGraph) -> None:
    for node in graph:
        if isinstance(node, Probe) and "batch" not in node.axes:
            raise InputError(
                f"{node!r} records {node.axes}, with no axis 'batch' to join batches along; leave "
                "batch_size out, or let it keep that axis"
            )


def joined(runs: list[Run], filling: tuple[int, str]) -> Run:
    """Several runs under one graph as one; prompts end at one place, as in one batch.

    **Arguments:**

    - `filling`: id and text of the token that fills shorter prompts and answers up.

    Where a sample has no row, logits and records are NaN, ids of records -1.
    """
    if len(runs) == 1:
        return runs[0]
    prompt = max(run.layout.prompt_length for run in runs)
    shifts = [prompt - run.layout.prompt_length for run in runs]
    length = max(s + run.ids.shape[1] for s, run in zip(shifts, runs, strict=True))
    pad, word = filling

    def rows(values: list[Tensor], fill: Any) -> Tensor:
        """Of tokens: filled up on both sides."""
        return torch.cat(
            [_put(value, 1, s, length, fill) for value, s in zip(values, shifts, strict=True)]
        )

    answers = all(run.logits.shape[1] < run.ids.shape[1] for run in runs)
    longest = max(run.logits.shape[1] for run in runs)
    logits = (
        torch.cat([_put(run.logits, 1, 0, longest, torch.nan) for run in runs])
        if answers
        else rows([run.logits for run in runs], torch.nan)
    )
    words = tuple(
        (word,) * s + texts + (word,) * (length - s - len(texts))
        for s, run in zip(shifts, runs, strict=True)
        for texts in run.words
    )
    names = dict.fromkeys(name for run in runs for name in run.records)
    layout = _layout([run.layout for run in runs], rows, prompt)
    probes = {repr(node): node for node in runs[0].graph if isinstance(node, Probe)}

    def record(name: str) -> Recorded:
        own = name.removesuffix(WORD)
        probe = probes.get(own) or probes[own.rpartition("#")[0]]
        found = _record([run.records.get(name) for run in runs], runs, shifts)
        return counted(found, probe, layout)

    return Run(
        rows([run.ids for run in runs], pad),
        logits,
        [text for run in runs for text in run.text],
        layout,
        words,
        runs[0].graph,
        runs[0].model,
        {name: record(name) for name in names},
    )


def _put(value: Tensor, axis: int, first: int, size: int, fill: Any) -> Tensor:
    """A value at a place along a longer axis."""
    shape = list(value.shape)
    shape[axis] = size
    found = value.new_full(shape, fill)
    found.narrow(axis, first, value.shape[axis]).copy_(value)
    return found


def _layout(
    layouts: list[TokenLayout], rows: Callable[[list[Tensor], Any], Tensor], prompt: int
) -> TokenLayout:
    apart = [x.roles & False if x.separators is None else x.separators for x in layouts]
    return replace(
        layouts[0],
        segments=rows([x.segments for x in layouts], PAD),
        image_index=rows([x.image_index for x in layouts], -1),
        roles=rows([x.roles for x in layouts], False),
        separators=rows(apart, False),
        turns=rows([x.image_index * 0 - 1 if x.turns is None else x.turns for x in layouts], -1),
        images=tuple(images for x in layouts for images in x.images),
        prompt_length=prompt,
        digests=tuple(digest for x in layouts for digest in x.digests),
        frames=tuple(frames for x in layouts for frames in x.frames or ((),) * x.batch)
        if any(x.frames for x in layouts)
        else (),
    )


def _record(found: list[Recorded | None], runs: list[Run], shifts: list[int]) -> Recorded:
    """The records of one probe along `batch`; rows and keys by the token that they are of."""
    given = next(record for record in found if record is not None)
    coords: dict[str, tuple] = dict(given.coords)
    along = rows_of(given)
    labels = [
        [] if record is None or along is None else [q + s for q in record.labels(along)]
        for record, s in zip(found, shifts, strict=True)
    ]
    queries = sorted({query for each in labels for query in each})
    if along is not None:
        coords[along] = tuple(queries)
    sizes = {
        axis: max(
            record.values.shape[i] + (s if axis == "key" else 0)
            for record, s in zip(found, shifts, strict=True)
            if record is not None
        )
        for i, axis in enumerate(given.axes)
    } | ({} if along is None else {along: len(queries)})
    fill = torch.nan if given.values.is_floating_point() else -1
    parts = []
    for record, run, s, own in zip(found, runs, shifts, labels, strict=True):
        batch = {"batch": run.layout.batch}
        shape = [(sizes | batch)[axis] for axis in given.axes]
        part = given.values.new_full(shape, fill)
        if record is not None:
            rows = {} if along is None else {along: [queries.index(query) for query in own]}
            part[_where(record, rows, s)] = record.values
        parts.append(part)
    known = [record.vocabulary or {} for record in found if record is not None]
    words = {id_: word for each in known for id_, word in each.items()} or None
    return Recorded(torch.cat(parts, given.axis("batch")), given.axes, coords, vocabulary=words)


def _where(record: Recorded, index: Mapping[str, list[int]], shift: int) -> tuple[Any, ...]:
    """Where a record lies in the joined one; `index` has the places of its rows."""
    places = []
    for i, axis in enumerate(record.axes):
        size = record.values.shape[i]
        start = shift if axis == "key" else 0
        along = torch.tensor(index.get(axis, list(range(start, start + size))))
        places.append(along.view([-1 if j == i else 1 for j in range(len(record.axes))]))
    return tuple(places)
