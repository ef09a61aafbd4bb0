"""The public surface: every name is ours and documented, and importing it is light."""

import inspect
import subprocess
import sys
from types import ModuleType

import pytest

import vsink_interp as vi

PUBLIC = [name for name in vi.__all__ if not name.startswith("__")]


def test_all_names_what_is_there():
    assert len(set(vi.__all__)) == len(vi.__all__)
    assert PUBLIC, "vsink_interp.__all__ is empty"
    visible = {
        name
        for name, value in vars(vi).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert visible <= set(vi.__all__), f"not in __all__: {sorted(visible - set(vi.__all__))}"


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_ours_and_documented(name):
    value = getattr(vi, name)
    home = value.__name__ if isinstance(value, ModuleType) else value.__module__
    assert home.split(".")[0] == "vsink_interp"
    text = vars(value).get("__doc__") if inspect.isclass(value) else inspect.getdoc(value)
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
