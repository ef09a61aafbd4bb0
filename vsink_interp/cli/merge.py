"""`vsink merge`: the shards of a data set or of experiments, joined."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .terminal import JsonOption, show

PlaceArgument = Annotated[
    Path, typer.Argument(help="What run_dataset was given as folder=, run_experiment as log=.")
]


def merge(place: PlaceArgument, as_json: JsonOption = False) -> None:
    """Join what n processes wrote with shard=(i, n) or --shard; exit status 1 if rows lack."""
    from ..model.shards import merge_shards, wanted
    from ..storage import holds_steps, merge_logs

    if holds_steps(place):
        found = merge_logs(place)
        _show_all([{"log": str(log), **counts} for log, counts in found.items()], as_json)
        lack = any(one["rows"] < one["steps"] for one in found.values())
    else:
        runs, samples = merge_shards(place), wanted(place)
        show({"folder": str(place), "runs": len(runs), "samples": samples}, as_json)
        lack = len(runs) < samples
    if lack:
        raise typer.Exit(1)


def _show_all(logs: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        show({"logs": logs}, as_json)
        return
    for one in logs:
        show(one, as_json)
