"""Interventions by name, for the command line: recipes with their published settings."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from ..edits import VAR, DropKeys, HideKeys, Knockout, recipes
from ..errors import NotationError, unknown
from ..graph import EditGraph, Graphlike, as_graph

RECIPES: Final[Mapping[str, Callable[[], Graphlike]]] = {
    "var": VAR,
    "var-released": lambda: VAR(p=0.6, rho=0.5, mode="released-code"),
    "pai": recipes.pai,
    "clearsight": recipes.clearsight,
    "act": recipes.act,
    "vcd": recipes.vcd,
    "icd": recipes.icd,
    "query-only": lambda: Knockout("image -> generated"),
    "dropped": lambda: DropKeys("image"),
    "blind": lambda: Knockout("image -> query generated"),
    "no-sinks": lambda: HideKeys("sink & image"),
}
"""What `--graph NAME` stands for; any other graph is a JSON file."""


def named_graph(name: str) -> tuple[str, EditGraph]:
    """A graph by the name of a recipe, or from a JSON file that `EditGraph.save` wrote.

    ```python
    name, graph = vi.evaluation.named_graph("var-released")
    lmm.generate(image, prompt, graph, max_new_tokens=2).text
    ```

    **Returns:** what the tables call it, and the graph.

    **Raises:** `NotationError` listing the recipes; `ResultError` if the file holds no graph.
    """
    if name in RECIPES:
        return name, as_graph(RECIPES[name]())
    if Path(name).is_file():
        return Path(name).stem, EditGraph.load(name)
    raise NotationError(
        f"{unknown('recipe', name, RECIPES)}; or give the path of a graph that EditGraph.save wrote"
    )
