"""The `vsink` command: the report, and its parts one by one.

Results go to stdout, and with `--json` nothing else does; progress and errors go to stderr. There
is no `-v`: nnsight reads it from the command line as its own debug switch.
"""

import json
from typing import Annotated, Any

import typer

import vsink_interp as vi

from ..errors import InputError, unknown
from .catalogue import catalogue
from .compare import knockout, var
from .evaluate import evaluate
from .figures import attend, demo, report
from .merge import merge
from .remote import remote
from .reproduce import WithAddress, reproduce
from .small import small
from .terminal import (
    Command,
    Commands,
    ImageOption,
    JsonOption,
    ModelOption,
    PromptOption,
    SeedOption,
    TokensOption,
    open_model,
    read_input,
    show,
)
from .view import view

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Attention sinks, knockouts and redistribution in large multimodal models. "
    "Without --model every command runs on the toy LMM that ships here, offline.",
)


def _print_versions(wanted: bool) -> bool:
    if wanted:
        from importlib.metadata import version

        others = ", ".join(
            f"{name} {version(name)}" for name in ("torch", "transformers", "nnsight")
        )
        typer.echo(f"vsink-interp {version('vsink-interp')} ({others})")
        raise typer.Exit
    return wanted


@app.callback()
def _program(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            metavar="",
            callback=_print_versions,
            is_eager=True,
            help="The version, and those of torch, transformers and nnsight.",
        ),
    ] = False,
) -> None:
    """What stands before a command."""


def generate(
    model: ModelOption = None,
    image: ImageOption = None,
    prompt: PromptOption = None,
    seed: SeedOption = None,
    max_new_tokens: TokensOption = 64,
    as_json: JsonOption = False,
) -> None:
    """Answer a prompt, and show the token layout."""
    lmm, shown, asked = open_model(model), *read_input(image, prompt, seed)
    run = lmm.generate(shown, asked, max_new_tokens=max_new_tokens)
    found = {"model": lmm.name, "prompt": asked, "answer": run.text, "tokens": str(run.layout)}
    show(found, as_json)


def detect(
    model: ModelOption = None,
    image: ImageOption = None,
    prompt: PromptOption = None,
    seed: SeedOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the sink dimensions of a model, and the sinks of an image in pixels, layer by layer."""
    lmm, shown, asked = open_model(model), *read_input(image, prompt, seed)
    probe = vi.probes.SinkValue()
    run = lmm.run(shown, asked, probe)
    tau, phi = lmm.sinks.tau, run.of(probe, "image[0]").values[:, 0]
    first = run.of(probe, "all").values[:, 0, 0]
    visual = [row.nonzero().flatten().tolist() for row in phi >= tau]
    found = {
        "model": lmm.name,
        "sink_dims": list(lmm.sinks.dims),
        "tau": tau,
        "source": lmm.sinks.source,
        "phi_first_token": [round(float(value), 3) for value in first],
        "largest_phi_image": [round(float(value), 3) for value in phi.amax(1)],
        "image_size": list(shown.size),
        "visual_sinks": {str(layer): tokens for layer, tokens in enumerate(visual)},
        "visual_sink_pixels": {
            str(layer): [_pixels(run.layout, token) for token in tokens]
            for layer, tokens in enumerate(visual)
        },
    }
    show(found, as_json)


def _pixels(layout: "vi.TokenLayout", token: int) -> list[float] | None:
    """Left, top, right, bottom of an image token; None where it is no patch."""
    (span,) = layout.images[0]
    place = span.places[token]
    box = None if place is None else span.parts[place[0]].patch_box(*place[1:])
    return None if box is None else [round(float(edge), 1) for edge in box]


def check_model(
    model: Annotated[str | None, typer.Argument(help="A folder or a Hub id.")] = None,
    tiny: Annotated[
        str | None, typer.Option("--tiny", help="A tiny random model of a family, or of 'all'.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Try every hook point of a model: which can be read, which act when overwritten."""
    if (model is None) == (tiny is None):
        raise InputError("name a model, or a family with --tiny (--tiny all for every family)")
    lmms = [open_model(model)] if tiny is None else [vi.LMM.tiny(name) for name in _families(tiny)]
    found = [lmm.capabilities for lmm in lmms]
    if as_json:
        typer.echo(json.dumps({"models": [one.to_dict() for one in found]}, ensure_ascii=False))
    else:
        typer.echo("\n\n".join(map(str, found)))
    if not all(one.passed for one in found):
        raise typer.Exit(1)


def _families(name: str) -> list[str]:
    known = [family.name for family in vi.families.FAMILIES if family.tiny]
    if name != "all" and name not in known:
        raise InputError(unknown("family", name, ["all", *known]))
    return known if name == "all" else [name]


COMMANDS: tuple[Any, ...] = (
    demo, report, attend, view, generate, detect, var, knockout, evaluate, reproduce, merge,
    check_model,
)  # fmt: skip
"""In the order of the help."""

for command in COMMANDS:
    name = {"evaluate": "eval"}.get(command.__name__, command.__name__.replace("_", "-"))
    app.command(name, cls=WithAddress if command is reproduce else Command)(command)
app.add_typer(catalogue, name="catalogue")
app.add_typer(remote, name="remote")
app.add_typer(small, name="small")

if __name__ == "__main__":
    app()
