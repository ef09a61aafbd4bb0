"""`vsink merge`: the shards of a data set, joined."""

from pathlib import Path
from typing import Annotated

import typer

from .terminal import JsonOption, show

FolderArgument = Annotated[Path, typer.Argument(help="What run_dataset was given as folder=.")]


def merge(folder: FolderArgument, as_json: JsonOption = False) -> None:
    """Join what run_dataset(..., shard=(i, n)) wrote in n processes; exit status 1 if rows lack."""
    from ..model.shards import merge_shards, wanted

    runs = merge_shards(folder)
    samples = wanted(folder)
    show({"folder": str(folder), "runs": len(runs), "samples": samples}, as_json)
    if len(runs) < samples:
        raise typer.Exit(1)
