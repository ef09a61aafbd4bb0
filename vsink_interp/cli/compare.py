"""`vsink var` and `vsink knockout`: an answer with and without an edit."""

from enum import StrEnum
from math import isnan
from pathlib import Path
from typing import Annotated, Any

import typer

import vsink_interp as vi

from ..errors import InputError
from .terminal import (
    ImageOption,
    JsonOption,
    LayersOption,
    ModelOption,
    PromptOption,
    SeedOption,
    TokensOption,
    open_model,
    progress,
    read_input,
    show,
)


class Mode(StrEnum):
    """The algorithms of VAR."""

    paper = "paper"
    released = "released-code"


TELLING_SCENE = 4
"""A toy scene whose caption VAR changes; in most scenes it changes only attention."""


def var(
    model: ModelOption = None,
    image: ImageOption = None,
    prompt: PromptOption = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Which toy scene, where no --image; 4 by default.")
    ] = None,
    p: Annotated[float, typer.Option("--p", help="The share of a sink's attention moved.")] = 0.6,
    rho: Annotated[
        float,
        typer.Option(
            "--rho",
            help="The least non-sink ratio of a head. In the paper: 0.8 for general questions, "
            "0.5 against hallucination, 0.9 for vision-centric ones.",
        ),
    ] = 0.5,
    mode: Annotated[
        Mode, typer.Option("--mode", help="The algorithm of the paper or of its released code.")
    ] = Mode.paper,
    layers: LayersOption = ":",
    max_new_tokens: TokensOption = 64,
    as_json: JsonOption = False,
) -> None:
    """Answer with and without Visual Attention Redistribution (Kang et al. 2025)."""
    edit = vi.VAR(p=p, rho=rho, mode=mode.value, layers=layers)
    lmm = open_model(model)
    shown, asked = read_input(image, prompt, seed, default=TELLING_SCENE)
    _compare(lmm, shown, asked, edit, max_new_tokens, as_json)


def knockout(
    flow: Annotated[
        str, typer.Argument(help="As in 'image -> generated'.")
    ] = "image -> query generated",
    model: ModelOption = None,
    image: ImageOption = None,
    prompt: PromptOption = None,
    seed: SeedOption = None,
    layers: LayersOption = ":",
    scenes: Annotated[
        int, typer.Option("--scenes", help="Sweep over the first layer cut, on toy scenes.")
    ] = 0,
    log: Annotated[
        Path | None,
        typer.Option("--log", help="A JSONL file from which an interrupted sweep continues."),
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", help="The longest answer; 64.", min=1)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Answer with a flow cut, or sweep over the first layer cut (Kaduri et al. 2025)."""
    edit = vi.Knockout(flow, layers)
    of_an_answer = {"image": image, "prompt": prompt, "max-new-tokens": max_new_tokens}
    _refuse_mixed(scenes, log, {**of_an_answer, "layers": None if layers == ":" else layers})
    lmm = open_model(model)
    if scenes:
        show(_sweep(lmm, flow, scenes, seed or 0, log), as_json)
    else:
        shown, asked = read_input(image, prompt, seed)
        _compare(lmm, shown, asked, edit, max_new_tokens or 64, as_json)


def _refuse_mixed(scenes: int, log: Path | None, of_an_answer: dict[str, Any]) -> None:
    """A sweep over toy scenes and an answer about one image have options of their own."""
    if scenes and (given := [f"--{name}" for name, x in of_an_answer.items() if x is not None]):
        raise InputError(
            f"--scenes sweeps the first layer cut over toy scenes; leave out {', '.join(given)}"
        )
    if log is not None and not scenes:
        raise InputError("--log keeps the answers of a sweep; give --scenes as well")


def _sweep(lmm: "vi.LMM", flow: str, scenes: int, seed: int, log: Path | None) -> dict[str, Any]:
    with progress() as watch:
        swept = vi.experiments.knockout_sweep(
            lmm,
            vi.experiments.Cases.scenes(scenes, seed),
            flows=(flow,),
            log=log,
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
        "change_95": [
            None if isnan(low) else [round(float(low), 4), round(float(high), 4)]
            for low, high in swept.interval[0]
        ],
    }


def _compare(
    lmm: "vi.LMM", image: Any, prompt: str, edit: Any, max_new_tokens: int, as_json: bool
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
    show(found, as_json)
