"""How a result came about: the experiment, its settings, its cases, the model, and the time."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import numpy as np
import torch
from PIL.Image import Image

from ..model import LMM, as_image, digest, fingerprint
from ..results.result import Result

P = ParamSpec("P")
R = TypeVar("R", bound=Result)
GIVEN: Final = ("cases", "quizzes", "located", "image", "images", "clean", "corrupted")
"""The arguments that hold images."""
NOT_SHOWN: Final = ("about", "batch_size")
"""What cases say about themselves, and no answer depends on."""
HOW: Final = ("lmm", "log", "tick")
"""The arguments on which no measurement depends."""


def with_provenance(experiment: Callable[P, R]) -> Callable[P, R]:
    """Have the result of an experiment say how it came about, in its `provenance`."""
    signature, name = inspect.signature(experiment), getattr(experiment, "__name__", "")

    @wraps(experiment)
    def run(*args: P.args, **options: P.kwargs) -> R:
        found = experiment(*args, **options)
        bound = signature.bind(*args, **options)
        bound.apply_defaults()
        return replace(found, provenance=provenance(name, bound.arguments))

    return run


def provenance(experiment: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Of a call with these arguments, as JSON can hold it."""
    needs_sinks = given["lmm"].sinks_or_none is not None
    known = dependence(experiment, needs_sinks=needs_sinks, **given)
    return {
        "experiment": experiment,
        **known,
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def dependence(experiment: str, lmm: LMM, *, needs_sinks: bool, **given: Any) -> dict[str, Any]:
    """What a measurement depends on: its settings, its cases, and the model as it is now."""
    shown = (one for name, value in given.items() if name in GIVEN for one in _shown(value))
    settings = {n: setting(v) for n, v in given.items() if n not in (*GIVEN, *HOW)}
    sinks = [list(lmm.sinks.dims), lmm.sinks.tau] if needs_sinks else None
    known = {"experiment": experiment, "settings": settings, "data": digest(shown), "sinks": sinks}
    return {**known, **fingerprint(lmm)}


def setting(value: Any) -> Any:
    """An argument as JSON can hold it."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list | range):
        return [setting(one) for one in value]
    if isinstance(value, Image | torch.Tensor) or _is_image(value):
        return digest(_shown(value))
    return repr(value)


def _shown(value: Any) -> Iterator[tuple[list[Image], object]]:
    """Each image in an argument, and whatever else stands beside it."""
    if isinstance(value, Image):
        yield [value], ""
    elif isinstance(value, Path | torch.Tensor) or _is_image(value):
        yield [as_image(value)], ""
    elif is_dataclass(value):
        for one in fields(value):
            if one.name not in NOT_SHOWN:
                yield from _shown(getattr(value, one.name))
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _shown(one)
    elif isinstance(value, np.ndarray):
        yield [], value.tobytes()
    elif not callable(value):
        yield [], value


def _is_image(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype != bool
