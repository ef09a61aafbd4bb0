"""Imports point down, and each heavy library has one home."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "vsink_interp"
FLOORS = tuple(
    "errors storage kernels toy small tokens graph metrics results probes edits families sinks "
    "engine remote model evaluation experiments reproduction integrations viewer plot __init__ "
    "cli".split()
)
"""The rooms from the ground up: each imports from those before it alone."""
FLOOR = {name: floor for floor, name in enumerate(FLOORS)}
HOMES = {
    "circuitsvis": {"plot"},
    "lmms_eval": {"integrations"},
    "matplotlib": {"plot"},
    "nnsight": {"engine", "remote"},
    "pandas": {"evaluation", "experiments", "reproduction", "results"},
    "pyarrow": {"evaluation", "results"},
    "ray": {"model"},
    "transformer_lens": {"integrations"},
    "transformers": {"engine", "families", "model", "remote", "small", "toy"},
    "typer": {"cli"},
    "xarray": {"results"},
}
UPWARD: frozenset[tuple[str, str]] = frozenset(
    {
        ("results/result.py", "plot"),
        ("model/encoding.py", "plot"),
        ("model/lmm_base.py", "plot"),
        ("results/recorded.py", "plot"),
        ("results/run.py", "plot"),
        ("results/sink_tokens.py", "plot"),
        ("sinks/image_heads.py", "plot"),
        ("tokens/layout.py", "plot"),
        ("toy/scenes.py", "plot"),
    }
)
"""Exceptions: a file and the room above it that one of its functions imports inside."""
SHIPPABLE = {"math", "torch"}  # all that a remote server is promised to have


def imported(path: Path, root: Path = ROOT) -> list[list[str]]:
    """The dotted parts of every import in a file, those inside functions too."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(root.parent).parts[: -node.level] if node.level else ()
            module = node.module.split(".") if node.module else []
            names += [[*package, *module, alias.name] for alias in node.names]
    return names


def complaints(path: Path, root: Path = ROOT) -> list[str]:
    """What is wrong with the imports of one file."""
    here = path.relative_to(root).parts[0].removesuffix(".py")
    found = []
    for top, *rest in imported(path, root):
        if here not in HOMES.get(top, {here}):
            found.append(f"{top} belongs to {sorted(HOMES[top])}")
        if here == "kernels" and top not in {*SHIPPABLE, "vsink_interp"}:
            found.append(f"{top} may not be there where a kernel runs; only {sorted(SHIPPABLE)}")
        if top == "vsink_interp":
            # A bare `import vsink_interp`, or a public name of it, is the top of the package.
            there = rest[0] if rest and rest[0] in FLOOR else "__init__"
            if (
                there != here
                and FLOOR[there] > FLOOR[here]
                and (str(path.relative_to(root)), there) not in UPWARD
            ):
                found.append(f"{here} may not import {there}: imports point down")
    return found


def test_the_root_holds_few_modules():
    assert {path.stem for path in ROOT.glob("*.py")} == {"__init__", "errors"}


def test_every_module_has_a_floor():
    """Also: the package is not empty, so the test below is about something."""
    modules = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in ROOT.rglob("*.py")}
    assert modules, f"nothing under {ROOT}"
    assert modules <= set(FLOOR), f"give these a floor: {sorted(modules - set(FLOOR))}"


@pytest.mark.parametrize(
    "path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_imports_point_down(path):
    assert complaints(path) == []


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("graph/graph.py", "from ..edits import Knockout", "graph may not import edits"),
        (
            "graph/graph.py",
            "def f():\n    import nnsight",
            "nnsight belongs to ['engine', 'remote']",
        ),
        ("edits/knockout.py", "from ..model import LMM", "edits may not import model"),
        ("engine/cache.py", "from ..remote import Server", "engine may not import remote"),
        ("remote/client.py", "from ..model.lmm import LMM", "remote may not import model"),
        ("edits/knockout.py", "import vsink_interp", "edits may not import __init__"),
        ("tokens/layout.py", "from ..graph import Site", "tokens may not import graph"),
        ("kernels/rows.py", "import numpy", "numpy may not be there"),
        ("edits/knockout.py", "from ..tokens import parse_flow\nfrom .base import Edit", None),
    ],
)
def test_the_rule_bites(tmp_path, module, source, complaint):
    path = tmp_path / "vsink_interp" / module
    path.parent.mkdir(parents=True)
    path.write_text(source)
    found = complaints(path, tmp_path / "vsink_interp")
    assert [complaint in line for line in found] == ([True] if complaint else [])
