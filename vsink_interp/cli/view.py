"""`vsink view`: the interactive viewer as one HTML file."""

from pathlib import Path
from typing import Annotated

import typer

from ..storage import reserved
from .terminal import (
    ImageOption,
    JsonOption,
    ModelOption,
    PromptOption,
    SeedOption,
    TokensOption,
    check_folder,
    has_sinks,
    open_model,
    read_input,
    show,
)

PAGE_SIZE = 2**20


def view(
    image: ImageOption = None,
    prompt: PromptOption = None,
    graph: Annotated[
        str | None,
        typer.Option("--graph", help="A recipe (var, pai ...) or a graph's JSON file: the edit."),
    ] = None,
    heads: Annotated[
        str | None,
        typer.Option(
            "--heads", help="Layers of which every head can be looked at: ':', '8:12', '0,3'."
        ),
    ] = None,
    lens: Annotated[
        bool,
        typer.Option("--lens", metavar="", help="Read every patch as a word, after every layer."),
    ] = False,
    out: Annotated[Path, typer.Option("--out", help="The HTML file to write.")] = Path("view.html"),
    model: ModelOption = None,
    seed: SeedOption = None,
    max_new_tokens: TokensOption = 64,
    as_json: JsonOption = False,
) -> None:
    """Look at where each word looks, layer by layer: one page that opens from disk."""
    check_folder(out)
    shown, asked = read_input(image, prompt, seed)
    with reserved(out, PAGE_SIZE) as write:
        from ..evaluation import named_graph
        from ..viewer import look

        edit = None if graph is None else named_graph(graph)[1]
        lmm = open_model(model)
        boxed = has_sinks(lmm)
        found = look(
            lmm, shown, asked, edit, heads=heads, sinks=boxed, lens=lens,
            max_new_tokens=max_new_tokens,
        )  # fmt: skip
        write(found.html)
    words = [row["text"] for row in found.data["rows"] if row["kind"] == "answer"]
    told = {"model": lmm.name, "prompt": asked, "answer": " ".join(words)}
    show({**told, "layers": len(found.data["layers"]), "page": str(out)}, as_json)
