"""`vsink eval`: benchmarks with interventions off and on."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from .terminal import JsonOption, ModelOption, open_model, progress

if TYPE_CHECKING:
    from ..evaluation import Evaluation
    from ..graph import EditGraph
    from ..metrics import Judge


TasksOption = Annotated[
    str,
    typer.Option(
        "--tasks",
        help="With commas between: pope, mme, chair; with --data also mmvp, cv-bench, mmhal, vqa.",
    ),
]
GraphOption = Annotated[
    list[str] | None,
    typer.Option(
        "--graph", help="A recipe (var, pai, vcd ...) or a graph's JSON file; again for more."
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", help="A folder with the benchmarks' files; the toy benchmark by default."
    ),
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", help="So many questions of each task.", min=1)
]
BatchOption = Annotated[
    int, typer.Option("--batch-size", help="How many questions are asked at once.", min=1)
]
JudgeOption = Annotated[
    str | None,
    typer.Option("--judge", help="A chat model that rates for mmhal; words alone by default."),
]
JudgeUrlOption = Annotated[
    str | None,
    typer.Option("--judge-url", help="Its OpenAI-compatible address; OpenAI's by default."),
]
RemoteOption = Annotated[
    str | None,
    typer.Option("--remote", help="The address of an NDIF server that hosts the model."),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="A folder for answers, scores and the page of what changed; "
        "a stopped evaluation goes on from it.",
    ),
]


def evaluate(
    model: ModelOption = None,
    tasks: TasksOption = "pope,mme,chair",
    graph: GraphOption = None,
    data: DataOption = None,
    limit: LimitOption = None,
    batch_size: BatchOption = 16,
    judge: JudgeOption = None,
    judge_url: JudgeUrlOption = None,
    remote: RemoteOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask benchmarks with interventions off and on, and compare over the same questions."""
    from ..evaluation import evaluate as measure, load_tasks
    from ..storage import make_folder

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    graphs = _graphs(graph or ["var"])
    if out is not None:
        make_folder(out)
    chosen = load_tasks(names, data, limit, judge=_judge(judge, judge_url, out))
    lmm = open_model(model, remote)
    with progress() as watch:
        found = measure(
            lmm,
            chosen,
            graphs,
            batch_size=batch_size,
            log=None if out is None else out / "answers.jsonl",
            tick=lambda done, total: watch(f"{done} of {total} questions", done / total),
        )
    if out is not None:
        _write(out, found)
    typer.echo(json.dumps(found.to_json(), ensure_ascii=False) if as_json else found.table())


def _graphs(names: Sequence[str]) -> "dict[str, EditGraph]":
    """The graphs by the names that tables give them."""
    from ..evaluation import named_graph

    named = [named_graph(name) for name in names]
    graphs = dict(named)
    if len(graphs) < len(named):
        told = ", ".join(name for name, _ in named)
        raise InputError(f"two graphs of one name ({told}): rename a file, so that tables differ")
    return graphs


def _judge(model: str | None, url: str | None, out: Path | None) -> "Judge | None":
    """The chat model that rates; what it said is kept beside the answers."""
    from ..metrics import ChatJudge

    if model is None:
        if url is not None:
            raise InputError("--judge-url is the address of a --judge: name the model too")
        return None
    return ChatJudge(model, url, cache=None if out is None else out / "judgements.jsonl")


def _write(folder: Path, found: "Evaluation") -> None:
    from ..plot.evaluation import evaluation
    from ..storage import write_text

    write_text(folder / "scores.json", json.dumps(found.to_json(), ensure_ascii=False, indent=1))
    write_text(folder / "changes.html", evaluation(found))
    rows: Sequence[dict[str, object]] = [vars(row) for row in found.rows]
    table = io.StringIO()
    writer = csv.DictWriter(table, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "scores.csv", table.getvalue())
