"""Model families: one filled form each. A family says where things are, and computes nothing."""

from importlib import import_module
from pkgutil import iter_modules

from .base import Block as Block, Family as Family, Tap as Tap
from .decoders import block_of as block_of
from .llava import LLAVA as LLAVA


def _families() -> tuple[Family, ...]:
    """Every form in the files of this folder: a new file is all that a new family takes."""
    modules = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__)]
    forms = [value for module in modules for value in vars(module).values()]
    known = {form.name: form for form in forms if isinstance(form, Family)}
    return tuple(known[name] for name in sorted(known))


FAMILIES: tuple[Family, ...] = _families()
"""Every known family."""
