"""`vsink demo`, `report` and `attend`: commands that write figures to a file."""

import io
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

import vsink_interp as vi

from ..errors import CapabilityError, InputError
from ..storage import reserved
from .terminal import (
    JsonOption,
    ModelOption,
    SeedOption,
    TokensOption,
    check_folder,
    has_sinks,
    open_model,
    progress,
    read_input,
    show,
)

OutOption = Annotated[Path, typer.Option("--out", help="The HTML file to write.")]
ScenesOption = Annotated[
    int, typer.Option("--scenes", help="How many toy scenes to average over.", min=1)
]
SmallOption = Annotated[
    bool | None,
    typer.Option(
        "--small/--no-small",
        metavar="",
        help="On the small LMM too; if it is installed, by default.",
    ),
]
SMALL_SCENES = 4
"""The most scenes of the demo on the small LMM: each takes half a minute of an idle core."""
REPORT_SIZE = 8 * 2**20
"""More bytes than a report has; they are set aside before the work."""
FIGURE_SIZE = 2 * 2**20
FIGURES = (".pdf", ".png", ".svg")


def demo(
    out: OutOption = Path("report.html"),
    scenes: ScenesOption = 50,
    seed: SeedOption = None,
    small: SmallOption = None,
) -> None:
    """Write the report on the toy LMM: one HTML file that needs no network.

    Where the small LMM is installed, NAME-small.html beside it is the same on that model, over at
    most 4 scenes.
    """
    from ..small.packages import INSTALL, PACKAGES, installed, located

    check_folder(out)
    for package in PACKAGES if small else ():
        located(package)
    _demo_on("toy", out, scenes, seed)
    if small or (small is None and installed()):
        beside = out.with_name(f"{out.stem}-small{out.suffix}")
        _demo_on("small", beside, min(scenes, SMALL_SCENES), seed)
    elif small is None:
        typer.echo(f"The toy's sinks were trained in. A model with natural ones: {INSTALL}")


def _demo_on(model: str, out: Path, scenes: int, seed: int | None) -> None:
    with reserved(out, REPORT_SIZE) as write:
        lmm = open_model(model)
        _write_report(_scenes_for(lmm, model, scenes, seed or 0), out, write)


def _scenes_for(lmm: "vi.LMM", model: str, scenes: int, seed: int) -> "vi.plot.Study":
    """Toy scenes; for the small LMM on photographs, as in its training, where there are any."""
    from ..small.scenes import photo_scene, photographs

    try:
        photos = photographs() if model == "small" else ()
    except CapabilityError as error:
        typer.echo(f"The small LMM gets plain scenes here: {error}")
        photos = ()
    if not photos:
        return vi.plot.Study.of_scenes(lmm, scenes=scenes, seed=seed)
    draw = partial(photo_scene, photos=photos, always=True)
    study = vi.plot.Study.of_scenes(lmm, scenes=scenes, seed=seed, draw=draw)
    about = f"{study.cases.about}, on photographs"
    return replace(study, cases=replace(study.cases, about=about))


def report(
    image: Annotated[Path, typer.Option("--image", help="The image.")],
    prompt: Annotated[str, typer.Option("--prompt", help="What to ask about it.")],
    model: ModelOption = None,
    out: OutOption = Path("report.html"),
    max_new_tokens: TokensOption = 64,
) -> None:
    """Write the report on a model, an image and a prompt of your own."""
    check_folder(out)
    shown, asked = read_input(image, prompt, None)
    with reserved(out, REPORT_SIZE) as write:
        lmm = open_model(model)
        study = vi.plot.Study.of_image(lmm, shown, asked, max_new_tokens=max_new_tokens)
        _write_report(study, out, write)


def attend(
    image: Annotated[Path | None, typer.Argument(help="An image; a toy scene by default.")] = None,
    prompt: Annotated[str | None, typer.Argument(help="What to ask about it.")] = None,
    word: Annotated[
        list[str] | None,
        typer.Option("--word", help="A word of the answer; can be given again. All by default."),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option("--layers", help="Layers to average over: '12:', '10,11'. The middle ones."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", help="The figure to write: .png, .pdf or .svg.")
    ] = Path("attention.png"),
    model: ModelOption = None,
    seed: SeedOption = None,
    max_new_tokens: TokensOption = 64,
    as_json: JsonOption = False,
) -> None:
    """Draw the attention of the answer's words over the image; sinks are boxed."""
    if out.suffix not in FIGURES:
        raise InputError(f"{str(out)!r} is no figure: end it with one of {', '.join(FIGURES)}")
    check_folder(out)
    from ..model.progress import silent

    shown, asked = read_input(image, prompt, seed)
    with reserved(out, FIGURE_SIZE) as write:
        lmm = open_model(model)
        maps = vi.experiments.word_maps(
            lmm,
            shown,
            asked,
            graph=vi.EditGraph(),
            layers=_numbers(lmm, layers),
            max_new_tokens=max_new_tokens,
            sinks=has_sinks(lmm),
            tick=silent,
        )
        drawn = io.BytesIO()
        vi.plot.overlay(maps, words=word).savefig(drawn, format=out.suffix[1:])
        write(drawn.getvalue())
    found = {"model": lmm.name, "answer": maps.answer, "words": list(maps.words)}
    show({**found, "layers": list(maps.layers), "figure": str(out)}, as_json)


def _numbers(lmm: "vi.LMM", layers: str | None) -> tuple[int, ...] | None:
    from ..graph import resolve_layers

    return None if layers is None else resolve_layers(layers, lmm.n_layers)


def _write_report(study: Any, out: Path, write: Callable[[str], None]) -> None:
    began = time.monotonic()
    with progress() as watch:
        write(vi.plot.report(study, watch=watch))
    size = out.stat().st_size / 1e6
    typer.echo(f"{out} ({size:.1f} MB, {time.monotonic() - began:.0f} s): open it in a browser")
