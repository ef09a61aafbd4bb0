"""`vsink reproduce`: figures, tables and ablations of both papers, measured anew."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError, UnreachableError, VsinkError
from .terminal import CONFIGURED, Command, JsonOption, ModelOption, open_model, progress

if TYPE_CHECKING:
    import vsink_interp as vi

    from ..reproduction import Entry


NAMES = re.compile(r"(list|all|(A|B|AB)\..*)$", re.IGNORECASE)
"""What is called, and is no address."""


class WithAddress(Command):
    """A command whose `--remote` may stand without an address."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line; `--remote` alone means the server that nnsight is set to."""
        found: list[str] = []
        for place, one in enumerate(args):
            found.append(one)
            after = args[place + 1] if place + 1 < len(args) else ""
            if one == "--remote" and (not after or after.startswith("-") or NAMES.match(after)):
                found.append(CONFIGURED)
        return super().parse_args(ctx, found)


NameArgument = Annotated[
    str, typer.Argument(help="`list`, `all`, or one of the list, as in A.fig3b.")
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="A folder of images, COCO or benchmarks; toy scenes if none."),
]
LimitOption = Annotated[int | None, typer.Option("--limit", help="How many cases of each.", min=1)]
DrawnSeedOption = Annotated[
    int, typer.Option("--seed", help="Of what is drawn, and the first toy scene.", min=0)
]
QuickOption = Annotated[
    bool, typer.Option("--quick", metavar="", help="A handful of cases, to see that it works.")
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--remote",
        metavar="[ADDRESS]",
        help="Run on an NDIF server: the address, or the one in nnsight's configuration.",
    ),
]
OutOption = Annotated[
    Path, typer.Option("--out", help="A folder for rows and figures; a stopped one goes on.")
]
OnOption = Annotated[
    str, typer.Option("--on", help="`here`, or `ray`: the cluster that Ray finds or starts.")
]
ReplicasOption = Annotated[
    int | None, typer.Option("--replicas", help="On Ray: how many copies of the model.")
]
GpusOption = Annotated[
    float | None,
    typer.Option("--gpus-per-replica", help="On Ray: how many each has; 1, or 0 for none."),
]
ShardOption = Annotated[
    str | None,
    typer.Option("--shard", metavar="I/N", help="As process I of N; then: vsink merge OUT."),
]


def reproduce(
    name: NameArgument,
    model: ModelOption = None,
    data: DataOption = None,
    limit: LimitOption = None,
    seed: DrawnSeedOption = 0,
    quick: QuickOption = False,
    remote: AddressOption = None,
    out: OutOption = Path("reproduced"),
    on: OnOption = "here",
    replicas: ReplicasOption = None,
    gpus: GpusOption = None,
    shard: ShardOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a figure or table of either paper anew, beside what was published."""
    from ..reproduction import ENTRIES, find
    from ..storage import make_folder

    if name == "list":
        asked = {"model": model, "data": data, "limit": limit, "remote": remote, "shard": shard}
        more = {"seed": seed or None, "quick": quick or None, "replicas": replicas}
        ray = {"on": None if on == "here" else on, "gpus-per-replica": gpus}
        _list(ENTRIES, as_json, {**asked, **more, **ray})
        return
    entries = ENTRIES if name == "all" else (find(name),)
    make_folder(out)
    where = {"on": on, "replicas": replicas, "gpus_per_replica": gpus, "shard": _shard(shard)}
    source = _source(model, on, remote)
    settings: dict[str, Any] = {"data": data, "limit": limit, "seed": seed, "quick": quick}
    found = [
        # Of all, those that draw nothing on data of one's own go on without the seed.
        _measured(source, e, out, {**settings, "seed": seed if _draws(e, data, name) else 0}, where)
        for e in entries
    ]
    cases = "toy scenes" if data is None else str(data)
    few = ", a handful of cases of each (--quick)" if quick else ""
    whole = name == "all" and shard is None
    of = getattr(source, "name", model or "toy")
    _write(out, found, f"{of} on {cases}{few}" if whole else "")
    _tell(out, found, as_json)
    if all("error" in one for one in found):
        raise typer.Exit(1)


def _source(model: str | None, on: str, remote: str | None) -> "vi.LMM | Callable[[], vi.LMM]":
    """The model; on Ray what opens it there."""
    if on == "here":
        return open_model(model, remote)
    if remote is not None:
        raise InputError(f"--on {on} opens the model on a cluster, and --remote on a server")
    return partial(open_model, model)


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    if not (found := re.fullmatch(r"(\d+)/(\d+)", text)):
        raise InputError(f"--shard {text}: I/N is process I of N, counted from 0, as in 0/8")
    return int(found[1]), int(found[2])


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


def _measured(
    source: "vi.LMM | Callable[[], vi.LMM]",
    entry: "Entry",
    out: Path,
    settings: dict[str, Any],
    where: dict[str, Any],
) -> dict[str, Any]:
    """Measure one entry, write its rows and figure, and say what came out; of a shard the rows."""
    from ..model import run_experiment
    from ..plot import png
    from ..reproduction import reproduce as measure
    from ..storage import write_bytes

    start = perf_counter()
    about = {"name": entry.name, "title": entry.title, "claim": entry.claim}
    with progress() as watch:
        try:
            found: Any = run_experiment(
                partial(measure, entry.name, **settings),
                source,
                log=out,
                tick=lambda done, total: watch(f"{entry.name}: {done} of {total}", done / total),
                **where,
            )
            if where["shard"]:
                return {**about, "shard": [*where["shard"]]}
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
        if "shard" in one:
            typer.echo(f"{one['name']}  measured by shard {one['shard'][0]} of {one['shard'][1]}")
            continue
        if len(found) == 1:
            typer.echo(one["table"])
        typer.echo(f"{one['name']}  {VERDICTS[one['holds']]}: {one['because']}")
    merge = any("shard" in one for one in found)
    ended = f"when all shards have ended: vsink merge {out}"
    if any("error" not in one for one in found):
        typer.echo(ended if merge else f"rows and figures: {out}")
