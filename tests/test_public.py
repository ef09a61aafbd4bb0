"""The public surface: every name is ours and documented, and importing it is light."""

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import vsink_interp as vi

# What `__init__` imports as itself (`from .lmm import LMM as LMM`): that is how a name is public.
ORIGIN = {
    alias.name: f"vsink_interp.{node.module}" if node.module else "vsink_interp"
    for node in ast.parse(Path(vi.__file__).read_text()).body
    if isinstance(node, ast.ImportFrom) and node.level == 1
    for alias in node.names
    if alias.asname == alias.name
}
PUBLIC = sorted(ORIGIN)


def test_what_is_visible_is_public():
    assert PUBLIC, "vsink_interp exports nothing"
    visible = {
        name
        for name, value in vars(vi).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert visible <= set(PUBLIC), f"write `import x as x` for {sorted(visible - set(PUBLIC))}"


def comment_below(module: ModuleType, name: str) -> str | None:
    """The string under the assignment of a constant."""
    body = ast.parse(inspect.getsource(module)).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        if name in {getattr(target, "id", None) for target in targets}:
            is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            return after.value.value if is_text else None
    return None


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_ours_and_documented(name):
    value = getattr(vi, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__module__.split(".")[0] == "vsink_interp"
        text = vars(value)["__doc__"] if inspect.isclass(value) else inspect.getdoc(value)
    elif isinstance(value, ModuleType):
        assert value.__name__.split(".")[0] == "vsink_interp"
        text = inspect.getdoc(value)
    else:
        text = comment_below(import_module(ORIGIN[name]), name)
    assert text, f"{name} has no docstring"
    assert not text.startswith(f"{name}("), f"{name} has only the docstring of its dataclass"


def methods() -> list[tuple[str, str]]:
    """Every public method and property that a public class of ours defines itself."""
    found = []
    for name in PUBLIC:
        cls = getattr(vi, name)
        if inspect.isclass(cls):
            found += [
                (name, attribute)
                for attribute, value in vars(cls).items()
                if not attribute.startswith("_")
                and isinstance(value, property | classmethod | staticmethod | type(methods))
                and getattr(inspect.unwrap(getattr(value, "__func__", value)), "__module__", name)
                in (name, cls.__module__)
            ]
    return found


@pytest.mark.parametrize(("cls", "method"), methods(), ids=".".join)
def test_a_public_method_is_documented(cls, method):
    """Overrides stay bare: `inspect.getdoc` finds what the base says."""
    assert inspect.getdoc(getattr(getattr(vi, cls), method)), f"{cls}.{method} has no docstring"


HEAVY = (
    "circuitsvis", "fastapi", "matplotlib", "pandas", "ray", "torchvision", "transformer_lens",
    "uvicorn", "vllm", "xarray",
)  # fmt: skip


def test_importing_is_light():
    code = f"import sys, vsink_interp; print(*(m for m in {HEAVY} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == []


def test_importing_changes_no_global_state():
    """No attention function, no logging handler, no default: importing only defines names."""
    code = """
import logging, torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as registry
def state():
    handlers = logging.root.handlers
    return sorted(registry), torch.get_default_dtype(), torch.is_grad_enabled(), handlers
before = repr(state())
import vsink_interp
assert repr(state()) == before, (before, state())
"""
    subprocess.run([sys.executable, "-c", code], timeout=120, check=True)
