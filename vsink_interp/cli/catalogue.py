"""`vsink catalogue`: list known sink dimensions, and compare them with a model's own."""

from pathlib import Path
from typing import Annotated, Any

import typer

import vsink_interp as vi

from .terminal import Command, Commands, JsonOption, ModelOption, open_model, show

catalogue = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="Known sink dimensions, with their sources. None is used unless you ask for it.",
)

NameArgument = Annotated[
    str, typer.Argument(help="A model of the catalogue, or a repository's name.")
]
FilesOption = Annotated[
    list[Path] | None,
    typer.Option("--file", help="Your own catalogue, in addition to the packaged one."),
]


@catalogue.command("list", cls=Command)
def list_entries(file: FilesOption = None, as_json: JsonOption = False) -> None:
    """Every entry: model, dimensions, threshold, status."""
    found = vi.catalogue.entries(*(file or ()))
    if as_json:
        show({"entries": [_row(entry) for entry in found]}, as_json)
        return
    width = max(len(entry.model) for entry in found)
    for entry in found:
        tau = "" if entry.tau is None else f"tau {entry.tau:g}"
        dims = ", ".join(map(str, entry.dims))
        typer.echo(f"{entry.model:{width}}  {entry.status:11}  {dims:18}  {tau}".rstrip())


@catalogue.command("show", cls=Command)
def show_entry(name: NameArgument, file: FilesOption = None, as_json: JsonOption = False) -> None:
    """One entry, with its source."""
    show(_row(vi.catalogue.find_entry(name, *(file or ()))), as_json)


@catalogue.command("verify", cls=Command)
def verify_entry(
    name: NameArgument,
    model: ModelOption = None,
    file: FilesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find a model's sink dimensions and compare; exit status 1 if they are others."""
    entry = vi.catalogue.find_entry(name, *(file or ()))
    verdict = vi.verify(open_model(model), entry)
    found = {
        "model": entry.model,
        "status": entry.status,
        "catalogue": list(entry.dims),
        "found": list(verdict.report.dims),
        "missing": list(verdict.missing),
        "extra": list(verdict.extra),
        "agrees": verdict.agrees,
        "tau": entry.tau,
        "tau_found": verdict.report.tau,
        "bos_mass": verdict.report.bos_mass,
        "bos_mass_clamped": verdict.report.bos_mass_clamped,
    }
    show(found, as_json)
    if not verdict.agrees:
        raise typer.Exit(1)


@catalogue.command("add", cls=Command)
def add_entry(
    file: Annotated[
        Path, typer.Option("--file", help="Your catalogue; created if it does not exist.")
    ],
    model: ModelOption = None,
    name: Annotated[str | None, typer.Option("--name", help="What to call the model.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Find a model's sink dimensions and add them to your own catalogue."""
    lmm = open_model(model)
    report = lmm.sink_report
    evidence = f"{report.bos_mass:.2f} to {report.bos_mass_clamped:.2f}"
    entry = vi.CatalogueEntry(
        name or lmm.name,
        report.dims,
        round(report.tau, 4),
        width=lmm.d_model,
        status="found",
        source=f"find_sink_dims; clamping takes the first token's attention from {evidence}",
        names=(lmm.name.lower(),),
    )
    vi.catalogue.add(entry, file)
    show({**_row(entry), "written_to": str(file)}, as_json)


def _row(entry: "vi.CatalogueEntry") -> dict[str, Any]:
    return {
        "model": entry.model,
        "dims": list(entry.dims),
        "tau": entry.tau,
        "width": entry.width,
        "status": entry.status,
        "source": entry.source,
    }
