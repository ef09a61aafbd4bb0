"""Calling user functions at hook points, for edits and probes alike."""

from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import Parameter, signature
from typing import Any, final

from torch import Tensor

from ..errors import NotationError
from .site import Site

_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


@final
@dataclass
class HookContext:
    """What a TransformerLens hook function receives as `hook`: name, layer, and a scratch dict.

    `ctx` is new in every call: no state outlives a run.
    """

    name: str
    site: Site
    ctx: dict[str, Any] = field(default_factory=dict)

    def layer(self) -> int | None:
        """The layer; None for hook points outside the layers."""
        return self.site.layer


def takes_hook(fn: Callable[..., Any], what: str) -> bool:
    """Whether a function is TransformerLens's, `fn(value, hook=...)`, and not `fn(value, site)`.

    **Raises:** `NotationError` for what is no function, or takes neither.
    """
    if not callable(fn):
        raise NotationError(f"{what} takes a function; got {type(fn).__name__}")
    try:
        parameters = signature(fn).parameters
    except (TypeError, ValueError):  # written in C: it is given the site, and complains itself
        return False
    if "hook" in parameters and parameters["hook"].kind in _NAMED:
        return True
    kinds = [parameter.kind for parameter in parameters.values()]
    if kinds and kinds[-1] is Parameter.VAR_KEYWORD and len(kinds) == 2:
        return True  # fn(value, **_)
    try:
        signature(fn).bind(None, None)
    except TypeError as error:
        raise NotationError(
            f"{what}: {getattr(fn, '__name__', fn)}{signature(fn)} is called as (value, site), or "
            "as (value, hook=...) if it has a parameter called hook, as in TransformerLens"
        ) from error
    return False


def call(fn: Callable[..., Any], value: Tensor, site: Site, *, with_hook: bool) -> Any:
    """Call a function at a place."""
    if with_hook:
        return fn(value, hook=HookContext(site.hook.at(site.layer), site))
    return fn(value, site)
