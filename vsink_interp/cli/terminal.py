"""What all commands share: options, opening a model, showing what was found, errors in one line."""

import json
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..errors import CapabilityError, VsinkError
from ..model import LMM

ModelOption = Annotated[
    str | None, typer.Option("--model", help="A folder or a Hub id; the toy LMM by default.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


class Commands(TyperGroup):
    """The commands, with errors of ours as one line on stderr and exit status 1."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except VsinkError as error:
            typer.echo(f"vsink: {error}", err=True)
            raise typer.Exit(1) from error


def open_model(model: str | None) -> LMM:
    """The model of a folder or a Hub id; the toy LMM for None.

    **Raises:** `CapabilityError` if it does not open.
    """
    try:
        return LMM.toy() if model is None else LMM.from_pretrained(model)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CapabilityError(
            f"the model {model or 'of the package'!r} does not open: {reason}"
        ) from error


def show(found: dict[str, Any], as_json: bool) -> None:
    """What a command found: one JSON object, or a line for each entry."""
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    width = max(map(len, found))
    for name, value in found.items():
        shown = json.dumps(value) if isinstance(value, list | dict) else value
        typer.echo(f"{name.replace('_', ' '):{width}}  {shown}")
