"""Export our functions for a server: by source, without the rest of this package."""

import inspect
from functools import cache
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType
from typing import Any


@cache
def plain(name: str) -> ModuleType:
    """One of our modules, loaded again under a name that cannot be imported.

    nnsight sends functions by source if their module cannot be imported, and otherwise by name,
    which the server would not find. Annotations are removed.
    """
    file = import_module(name, __package__).__file__
    spec = spec_from_file_location(f"sent{name}", file)
    assert spec is not None and spec.loader is not None  # noqa: S101 (a file of ours)
    fresh = module_from_spec(spec)
    spec.loader.exec_module(fresh)
    for function in vars(fresh).values():
        if inspect.isfunction(function):
            function.__annotations__ = {}
    return fresh


def functions() -> dict[str, Any]:
    """The runtime's functions, and the kernels and the player that they call."""
    attend, measure = plain("..kernels.attend"), plain("..kernels.measure")
    return {
        "new_state": plain(".runtime").new_state,
        "forward": plain(".runtime").forward,
        "answers": plain(".runtime").answers,
        "kernels": {
            "add_mask": attend.add_mask,
            "attend": attend.attend,
            "attention_scores": attend.attention_scores,
            "head_result": measure.head_result,
            "log_total": attend.log_total,
            "play": plain(".program_player").play,
            "sink_value": plain("..kernels.sinks").sink_value,
            "softcapped": plain("..kernels.logits").softcapped,
            "softmax": attend.softmax,
        },
    }
