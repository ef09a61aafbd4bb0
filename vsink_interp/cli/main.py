"""The `vsink` command: the report, and its pieces one by one.

Results go to stdout, with `--json` nothing else does; progress and errors go to stderr. There is no
`-v`: nnsight reads it from the command line as its own debug switch.
"""

import json
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL.Image import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ..edits import VAR, Knockout
from ..errors import InputError, unknown
from ..experiments import Cases, knockout_sweep
from ..families import FAMILIES
from ..model import LMM, as_image
from ..plot.report import Watch, report as render
from ..plot.study import Study
from ..probes import SinkValue
from ..toy import scene
from ..toy.language import DESCRIBE
from .catalogue import catalogue
from .remote import remote
from .terminal import Commands, JsonOption, ModelOption, open_model as _open_model, show as _show


class Mode(StrEnum):
    """The algorithms of VAR."""

    paper = "paper"
    released = "released-code"


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Attention sinks, knockouts and redistribution in large multimodal models. "
    "Without --model every command runs on the toy LMM that ships here, offline.",
)
app.add_typer(catalogue, name="catalogue")
app.add_typer(remote, name="remote")

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
OutOption = Annotated[Path, typer.Option("--out", help="The HTML file to write.")]
ScenesOption = Annotated[
    int, typer.Option("--scenes", help="How many toy scenes to average over.", min=1)
]


@app.command()
def demo(
    out: OutOption = Path("report.html"), scenes: ScenesOption = 50, seed: SeedOption = None
) -> None:
    """Write the report on the toy LMM: one HTML file that needs no network."""
    _check_folder(out)
    _write_report(Study.of_scenes(_open_model(None), scenes=scenes, seed=seed or 0), out)


@app.command()
def report(
    image: Annotated[Path, typer.Option("--image", help="The image.")],
    prompt: Annotated[str, typer.Option("--prompt", help="What to ask about it.")],
    model: ModelOption = None,
    out: OutOption = Path("report.html"),
    max_new_tokens: TokensOption = 64,
) -> None:
    """Write the report on a model, an image and a prompt of your own."""
    _check_folder(out)
    shown = as_image(str(image))
    lmm = _open_model(model)
    _write_report(Study.of_image(lmm, shown, prompt, max_new_tokens=max_new_tokens), out)


@app.command()
def generate(
    model: ModelOption = None,
    image: ImageOption = None,
    prompt: PromptOption = None,
    seed: SeedOption = None,
    max_new_tokens: TokensOption = 64,
    as_json: JsonOption = False,
) -> None:
    """Answer a prompt, and show the token layout."""
    lmm, shown, asked = _open_model(model), *_input(image, prompt, seed)
    run = lmm.generate(shown, asked, max_new_tokens=max_new_tokens)
    found = {"model": lmm.name, "prompt": asked, "answer": run.text, "tokens": str(run.layout)}
    _show(found, as_json)


@app.command()
def detect(
    model: ModelOption = None,
    image: ImageOption = None,
    prompt: PromptOption = None,
    seed: SeedOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the sink dimensions of a model, and the sinks of an image, layer by layer."""
    lmm, shown, asked = _open_model(model), *_input(image, prompt, seed)
    probe = SinkValue()
    run = lmm.run(shown, asked, probe)
    phi, tau = run[probe].values[:, 0], lmm.sinks.tau
    image_tokens = run.layout.mask("image")[0]
    visual = ((phi >= tau) & image_tokens).int()
    start = int(image_tokens.int().argmax())
    found = {
        "model": lmm.name,
        "sink_dims": list(lmm.sinks.dims),
        "tau": tau,
        "source": lmm.sinks.source,
        "phi_first_token": [round(float(value), 3) for value in phi[:, 0]],
        "largest_phi_image": [round(float(value), 3) for value in phi[:, image_tokens].amax(1)],
        "visual_sinks": {
            str(layer): (row.nonzero().flatten() - start).tolist()
            for layer, row in enumerate(visual)
        },
    }
    _show(found, as_json)


@app.command()
def var(
    model: ModelOption = None,
    image: ImageOption = None,
    prompt: PromptOption = None,
    seed: SeedOption = None,
    p: Annotated[float, typer.Option("--p", help="The share of a sink's attention moved.")] = 0.6,
    rho: Annotated[float, typer.Option("--rho", help="The least non-sink ratio of a head.")] = 0.5,
    mode: Annotated[Mode, typer.Option("--mode", help="Whose algorithm.")] = Mode.paper,
    layers: LayersOption = ":",
    max_new_tokens: TokensOption = 64,
    as_json: JsonOption = False,
) -> None:
    """Answer with and without Visual Attention Redistribution (Kang et al. 2025)."""
    edit = VAR(p=p, rho=rho, mode=mode.value, layers=layers)
    lmm, shown, asked = _open_model(model), *_input(image, prompt, seed)
    _compare(lmm, shown, asked, edit, max_new_tokens, as_json)


@app.command()
def knockout(
    flow: Annotated[str, typer.Argument(help="As in 'image -> generated'.")] = "image -> generated",
    model: ModelOption = None,
    image: ImageOption = None,
    prompt: PromptOption = None,
    seed: SeedOption = None,
    layers: LayersOption = ":",
    scenes: Annotated[
        int, typer.Option("--scenes", help="Sweep over the first layer cut, on toy scenes.")
    ] = 0,
    rows: Annotated[
        Path | None, typer.Option("--rows", help="A JSONL file that a sweep can go on from.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", help="The longest answer; 64.", min=1)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Answer with a flow cut, or sweep over the first layer cut (Kaduri et al. 2025)."""
    edit = Knockout(flow, layers)
    of_an_answer = {"image": image, "prompt": prompt, "max-new-tokens": max_new_tokens}
    _refuse_mixed(scenes, rows, {**of_an_answer, "layers": None if layers == ":" else layers})
    lmm = _open_model(model)
    if scenes:
        _show(_sweep(lmm, flow, scenes, seed or 0, rows), as_json)
    else:
        shown, asked = _input(image, prompt, seed)
        _compare(lmm, shown, asked, edit, max_new_tokens or 64, as_json)


@app.command(name="check-model")
def check_model(
    model: Annotated[str | None, typer.Argument(help="A folder or a Hub id.")] = None,
    tiny: Annotated[
        str | None, typer.Option("--tiny", help="A tiny random model of a family, or of 'all'.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Try every hook point of a model: what can be read, what acts when it is overwritten."""
    if (model is None) == (tiny is None):
        raise InputError("name a model, or a family with --tiny (--tiny all for every family)")
    lmms = [_open_model(model)] if tiny is None else [LMM.tiny(name) for name in _families(tiny)]
    found = [lmm.capabilities for lmm in lmms]
    if as_json:
        typer.echo(json.dumps({"models": [one.to_dict() for one in found]}, ensure_ascii=False))
    else:
        typer.echo("\n\n".join(map(str, found)))
    if not all(one.passed for one in found):
        raise typer.Exit(1)


def _families(name: str) -> list[str]:
    known = [family.name for family in FAMILIES if family.tiny]
    if name != "all" and name not in known:
        raise InputError(unknown("family", name, ["all", *known]))
    return known if name == "all" else [name]


def _refuse_mixed(scenes: int, rows: Path | None, of_an_answer: dict[str, Any]) -> None:
    """A sweep over toy scenes and an answer about one image have options of their own."""
    if scenes and (given := [f"--{name}" for name, x in of_an_answer.items() if x is not None]):
        raise InputError(
            f"--scenes sweeps the first layer cut over toy scenes; leave {', '.join(given)} away"
        )
    if rows is not None and not scenes:
        raise InputError("--rows keeps the answers of a sweep; give --scenes as well")


def _sweep(lmm: LMM, flow: str, scenes: int, seed: int, rows: Path | None) -> dict[str, Any]:
    with _progress() as watch:
        swept = knockout_sweep(
            lmm,
            Cases.scenes(scenes, seed),
            flows=(flow,),
            rows=rows,
            tick=lambda done, total: watch(f"cutting {flow}", done / total),
        )
    return {
        "model": lmm.name,
        "flow": flow,
        "cases": swept.about,
        "reference": swept.reference,
        "f1_uncut": float(swept.baseline.mean()),
        "from_layer": list(swept.layers),
        "f1_mean": [round(float(value), 4) for value in swept.mean[0]],
        "f1_std": [round(float(value), 4) for value in swept.std[0]],
    }


def _compare(
    lmm: LMM,
    image: Image,
    prompt: str,
    edit: Any,
    max_new_tokens: int,
    as_json: bool,
) -> None:
    plain = lmm.generate(image, prompt, max_new_tokens=max_new_tokens)
    edited = lmm.generate(image, prompt, edit, max_new_tokens=max_new_tokens)
    found = {
        "model": lmm.name,
        "prompt": prompt,
        "edit": repr(edit),
        "answer": plain.text,
        "edited_answer": edited.text,
        "changed": plain.text != edited.text,
    }
    _show(found, as_json)


def _input(image: Path | None, prompt: str | None, seed: int | None) -> tuple[Image, str]:
    if image is not None and seed is not None:
        raise InputError("--seed chooses a toy scene, and --image is an image: leave one away")
    shown = scene(seed or 0).image if image is None else as_image(str(image))
    return shown, prompt or DESCRIBE


def _check_folder(out: Path) -> None:
    folder = out.resolve().parent
    if not folder.is_dir():
        raise InputError(f"there is no folder {str(folder)!r} to write {out.name!r} into")


def _write_report(study: Study, out: Path) -> None:
    began = time.monotonic()
    with _progress() as watch:
        out.write_text(render(study, watch=watch), encoding="utf-8")
    size = out.stat().st_size / 1e6
    typer.echo(f"{out} ({size:.1f} MB, {time.monotonic() - began:.0f} s): open it in a browser")


@contextmanager
def _progress() -> Generator[Watch]:
    columns = (
        SpinnerColumn(), TextColumn("{task.description:<36}"), BarColumn(), TimeElapsedColumn()
    )  # fmt: skip
    with Progress(*columns, console=Console(file=sys.stderr)) as bar:
        task = bar.add_task("", total=1.0)

        def watch(what: str, share: float) -> None:
            bar.update(task, description=what, completed=share)

        yield watch
        bar.update(task, description="done", completed=1.0)


if __name__ == "__main__":
    app()
