"""What all commands share: options, opening a model, showing what was found, errors in one line.

Nothing here or in a command's signature loads torch: `--help` and a mistyped option answer at once.
"""

import json
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import vsink_interp as vi

from ..errors import CapabilityError, InputError, VsinkError

ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="A folder, a Hub id, or 'small'; the toy LMM by default."),
]
JsonOption = Annotated[bool, typer.Option("--json", metavar="", help="One JSON object on stdout.")]
ImageOption = Annotated[
    Path | None, typer.Option("--image", help="An image; a toy scene by default.")
]
PromptOption = Annotated[str | None, typer.Option("--prompt", help="What to ask about it.")]
SeedOption = Annotated[
    int | None, typer.Option("--seed", help="Which toy scene, where no --image; 0 by default.")
]
TokensOption = Annotated[int, typer.Option("--max-new-tokens", help="The longest answer.", min=1)]
LayersOption = Annotated[
    str, typer.Option("--layers", help="Layers, counted from 0: ':', '12:', '4:20', '0,3,7'.")
]


class _PlainHelp:
    """`--help` is a flag: it takes no `<bool>`."""

    def get_help_option(self, ctx: Any) -> Any:
        """The option, without the type that typer shows for it."""
        option = super().get_help_option(ctx)  # ty: ignore[missing-attribute] (a mixin)
        if option is not None:
            option.metavar = ""
        return option


class Command(_PlainHelp, TyperCommand):
    """One command."""


class Commands(_PlainHelp, TyperGroup):
    """The commands, with errors of ours as one line on stderr and exit status 1."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command of the command line."""
        try:
            return super().invoke(ctx)
        except VsinkError as error:
            typer.echo(f"vsink: {error}", err=True)
            raise typer.Exit(1) from error


CONFIGURED = "configured"
"""The `--remote` of a command line that names no address: the server in nnsight's configuration."""


def open_model(model: str | None, remote: str | None = None) -> "vi.LMM":
    """The model of a folder or a Hub id, or a named one; the toy LMM for None.

    **Arguments:**

    - `remote`: the address of the server on which everything runs, or `CONFIGURED`. What a command
        needs from it is fetched, however large; stderr says how large, before it is asked for.

    **Raises:** `CapabilityError` if it does not open; `InputError` for a model of the package on a
    server.
    """
    if remote and (model in (None, "toy") or model.split("/")[0] == "small"):
        raise InputError("--remote runs a model that the server hosts: name it with --model")
    server: vi.Server | bool = False
    if remote:
        server = vi.Server(None if remote == CONFIGURED else remote, allow_large=True)
    try:
        return vi.LMM.from_pretrained(model or "toy", remote=server)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CapabilityError(
            f"the model {model or 'of the package'!r} does not open: {reason}"
        ) from error


def has_sinks(lmm: "vi.LMM") -> bool:
    """Whether the sink dimensions of a model are known; says on stderr why not."""
    try:
        return bool(lmm.sinks)
    except CapabilityError as error:
        typer.echo(f"vsink: no sinks are boxed: {error}", err=True)
        return False


def read_input(
    image: Path | None, prompt: str | None, seed: int | None, *, default: int = 0
) -> tuple[Any, str]:
    """The image and the prompt of a command: a toy scene, and its caption, by default."""
    from ..model import as_image
    from ..toy.language import DESCRIBE

    if image is not None and seed is not None:
        raise InputError("--seed chooses a toy scene, and --image is an image: leave one out")
    chosen = default if seed is None else seed
    shown = vi.toy.scene(chosen).image if image is None else as_image(str(image))
    return shown, prompt or DESCRIBE


def check_folder(out: Path) -> None:
    """Refuse a file whose folder is not there, before a model is opened for it."""
    folder = out.resolve().parent
    if not folder.is_dir():
        raise InputError(f"there is no folder {str(folder)!r} to write {out.name!r} into")


def show(found: dict[str, Any], as_json: bool) -> None:
    """Print a result: one JSON object, or a line for each entry."""
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    width = max(map(len, found))
    for name, value in found.items():
        shown = json.dumps(value) if isinstance(value, list | dict) else value
        typer.echo(f"{name.replace('_', ' '):{width}}  {shown}")


@contextmanager
def progress() -> Generator[Callable[[str, float], None]]:
    """A bar on stderr; call what it gives with what is done now, and the share of the work."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(), TextColumn("{task.description:<36}"), BarColumn(), TimeElapsedColumn()
    )  # fmt: skip
    with Progress(*columns, console=Console(file=sys.stderr)) as bar:
        task = bar.add_task("", total=1.0)

        def watch(what: str, share: float) -> None:
            bar.update(task, description=what, completed=share)

        yield watch
        bar.update(task, description="done", completed=1.0)
