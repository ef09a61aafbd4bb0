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
from tests import plain_process

# Where `__init__` takes each name from.
ORIGIN = {
    alias.name: f"vsink_interp.{node.module}" if node.module else "vsink_interp"
    for node in ast.walk(ast.parse(Path(vi.__file__).read_text()))
    if isinstance(node, ast.ImportFrom) and node.level == 1
    for alias in node.names
}
PUBLIC = sorted(vi.__all__)


def test_what_is_visible_is_public():
    assert PUBLIC, "vsink_interp exports nothing"
    assert dir(vi) == PUBLIC
    assert set(ORIGIN) == set(PUBLIC), "every name that is imported is public, and no other"


def test_no_internal_module_is_visible():
    inner = {"cli", "engine", "graph", "model", "remote", "results", "sinks", "tokens"}
    assert not inner & set(dir(vi))


def test_every_edit_is_reachable_at_the_top():
    classes = {n for n, value in vars(vi.edits).items() if inspect.isclass(value)}
    assert classes <= set(PUBLIC)


def comment_below(module: ModuleType, name: str) -> str | None:
    """The string under the assignment of a constant."""
    body = ast.parse(inspect.getsource(module)).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        if name in {getattr(target, "id", None) for target in targets}:
            is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            return after.value.value if is_text else None
    return None


def _home(name: str) -> ModuleType:
    """The module that assigns a public constant; a room's `__init__` only hands it on."""
    room = import_module(ORIGIN[name])
    inner = [m for m in vars(room).values() if isinstance(m, ModuleType)]
    return next(m for m in [room, *inner] if comment_below(m, name))


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
        text = comment_below(_home(name), name)
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


OPTIONAL = (
    "circuitsvis", "fastapi", "lmms_eval", "matplotlib", "pandas", "ray", "torchvision",
    "transformer_lens", "uvicorn", "vllm", "xarray",
)  # fmt: skip
HEAVY = ("jaxtyping", "nnsight", "numpy", "safetensors", "torch", "transformers")


@pytest.mark.parametrize(
    ("code", "kept_out", "most"),
    [
        ("import vsink_interp", OPTIONAL + HEAVY, 25),
        ("from vsink_interp import InputError, errors", OPTIONAL + HEAVY, 25),
        ("import vsink_interp as vi; vi.Knockout", (*OPTIONAL, "nnsight", "transformers"), None),
        ("import vsink_interp as vi; vi.LMM, vi.VAR, vi.edits, vi.probes", OPTIONAL, None),
    ],
)
def test_importing_is_light(code, kept_out, most):
    """Of a fresh process: what a name needs is loaded with it, and nothing before."""
    script = f"""
import sys, importlib.util
before = set(sys.modules)
{code}
print(len(set(sys.modules) - before), *(m for m in {kept_out} if m in sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    count, *loaded = done.stdout.split()
    assert loaded == []
    assert most is None or int(count) <= most


@pytest.mark.parametrize("name", PUBLIC)
def test_a_lazy_name_is_the_one_of_its_room(name):
    module = import_module(ORIGIN[name])
    is_room = ORIGIN[name] == "vsink_interp"
    expected = import_module(f"vsink_interp.{name}") if is_room else getattr(module, name)
    assert getattr(vi, name) is expected


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(vi, "no_such_name")
    assert not hasattr(vi, "_repr_html_")
    with pytest.raises(ImportError, match="no_such_name"):
        exec("from vsink_interp import no_such_name")


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
    done = plain_process.run(code)
    assert done.returncode == 0, done.stderr
