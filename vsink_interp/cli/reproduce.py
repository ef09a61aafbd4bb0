"""`vsink reproduce`: figures, tables and ablations of both papers, measured anew."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError, UnreachableError, VsinkError
from .terminal import CONFIGURED, Command, JsonOption, ModelOption, open_model, progress

if TYPE_CHECKING:
    import vsink_interp as vi

    from ..reproduction import Entry


class WithAddress(Command):
    """A command whose `--remote` may stand without an address."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line; `--remote` alone means the server that nnsight is set to."""
        found: list[str] = []
        for place, one in enumerate(args):
            found.append(one)
            after = args[place + 1] if place + 1 < len(args) else ""
            if one == "--remote" and ":" not in after:
                found.append(CONFIGURED)
        return super().parse_args(ctx, found)


def reproduce(
    name: Annotated[str, typer.Argument(help="`list`, `all`, or one of the list, as in A.fig3b.")],
    model: ModelOption = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="A folder of images, COCO or benchmarks; toy scenes if none."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="How many cases of each.", min=1)
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", help="Of what is drawn, and the first toy scene.", min=0)
    ] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", metavar="", help="A handful of cases, to see that it works.")
    ] = False,
    remote: Annotated[
        str | None,
        typer.Option(
            "--remote",
            metavar="[ADDRESS]",
            help="Run on an NDIF server: the address, or the one in nnsight's configuration.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", help="A folder for rows and figures; a stopped one goes on.")
    ] = Path("reproduced"),
    as_json: JsonOption = False,
) -> None:
    """Measure a figure or table of either paper anew, beside what was published."""
    from ..reproduction import ENTRIES, find

    if name == "list":
        asked = {"model": model, "data": data, "limit": limit, "remote": remote}
        _list(ENTRIES, as_json, {**asked, "seed": seed or None, "quick": quick or None})
        return
    entries = ENTRIES if name == "all" else (find(name),)
    lmm = open_model(model, remote)
    settings: dict[str, Any] = {"data": data, "limit": limit, "seed": seed, "quick": quick}
    found = [
        # Of all, those that draw nothing on data of one's own go on without the seed.
        _measured(lmm, e, out, {**settings, "seed": seed if _draws(e, data, name) else 0})
        for e in entries
    ]
    cases = "toy scenes" if data is None else str(data)
    few = ", a handful of cases of each (--quick)" if quick else ""
    _write(out, found, f"{lmm.name} on {cases}{few}" if name == "all" else "")
    _tell(out, found, as_json)
    if all("error" in one for one in found):
        raise typer.Exit(1)


def _draws(entry: "Entry", data: Path | None, name: str) -> bool:
    return name != "all" or data is None or entry.draws


def _list(entries: Sequence["Entry"], as_json: bool, of_measuring: Mapping[str, Any]) -> None:
    if given := [f"--{name}" for name, value in of_measuring.items() if value is not None]:
        raise InputError(f"`list` measures nothing; leave out {', '.join(given)}")
    if as_json:
        shown = [{"name": e.name, "title": e.title, "claim": e.claim} for e in entries]
        typer.echo(json.dumps(shown, ensure_ascii=False))
        return
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        typer.echo(f"{entry.name:{width}}  {entry.title}")


def _measured(lmm: "vi.LMM", entry: "Entry", out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Measure one entry, write its rows and figure, and say what came out."""
    from ..plot import png
    from ..reproduction import reproduce as measure
    from ..storage import write_bytes

    start = perf_counter()
    about = {"name": entry.name, "title": entry.title, "claim": entry.claim}
    with progress() as watch:
        try:
            found = measure(
                entry.name,
                lmm,
                settings["data"],
                limit=settings["limit"],
                seed=settings["seed"],
                quick=settings["quick"],
                log=out,
                tick=lambda done, total: watch(f"{entry.name}: {done} of {total}", done / total),
            )
            found.save(out)
            write_bytes(out / f"{entry.name}.png", png(found.plot()))
            outcome = entry.outcome(found)
        except UnreachableError:
            raise  # nor would it answer the entries that follow
        except VsinkError as error:
            return {**about, "error": str(error)}
    seconds = round(perf_counter() - start, 1)
    return {
        **about, "holds": outcome.holds, "because": outcome.because, "table": found.table(),
        "seconds": seconds,
    }  # fmt: skip


def _write(out: Path, found: Sequence[dict[str, Any]], about: str) -> None:
    """The page of all of them; none without `about`, which says what they were measured on."""
    from ..plot.reproduction_page import page
    from ..storage import write_text

    if not about:
        return
    write_text(out / "index.json", json.dumps(list(found), ensure_ascii=False, indent=1))
    write_text(out / "index.html", page(out, found, about))


def _tell(out: Path, found: Sequence[dict[str, Any]], as_json: bool) -> None:
    from ..reproduction import VERDICTS

    if as_json:
        typer.echo(json.dumps({"out": str(out), "reproductions": found}, ensure_ascii=False))
        return
    for one in found:
        if "error" in one:
            typer.echo(f"{one['name']}  not measured: {one['error']}")
            continue
        if len(found) == 1:
            typer.echo(one["table"])
        typer.echo(f"{one['name']}  {VERDICTS[one['holds']]}: {one['because']}")
    typer.echo(f"rows and figures: {out}")
