"""Where a node acts: hook point, layers and heads, each in one canonical form."""

import re
from collections.abc import Iterable
from dataclasses import fields
from fnmatch import fnmatchcase
from numbers import Real
from typing import Any

from ..errors import NotationError
from .hook_points import HookPoint, find_hook
from .index_notation import Numbers, settled
from .top_heads import TopHeads

_FULL = re.compile(r"^(?P<stack>blocks|vision_encoder\.blocks)\.(?P<layers>[^.]+)\.(?P<name>.+)$")
_BRACES = re.compile(r"\{(-?\d+)-(\d+)\}|\{([\d, ]+)\}")
_WILD = re.compile(r"[*?]")


def short_name(point: HookPoint) -> str:
    """A hook point's name without its layer, as nodes print it."""
    return point.name if point.stack in ("blocks", None) else point.template


def split_hook(name: str) -> tuple[HookPoint, Numbers | None]:
    """The hook point that a name stands for, and its layers if the name includes any.

    `blocks.3.attn.hook_z`, `blocks.{2-5}.hook_resid_post`, `blocks.*.hook_mlp_out`, or
    `attn.hook_z` without layers.

    **Raises:** `NotationError` listing the legal names.
    """
    match = _FULL.match(name)
    relative = match["name"] if match else name
    if _WILD.search(relative):
        raise NotationError(
            f"{name!r} names several hook points, and this takes one; a wildcard may stand for the "
            "layers, as in 'blocks.*.hook_resid_post'. names_filter of run_with_cache takes both"
        )
    if match is None or match["layers"] == "{layer}":
        return find_hook(name), None
    point = find_hook(f"{match['stack']}.{{layer}}.{relative}")
    return point, _layers(match["layers"])


def _layers(text: str) -> Numbers:
    if text == "*":
        return ":"
    if found := _BRACES.fullmatch(text):
        first, last, listed = found.groups()
        return settled(listed if listed else range(int(first), int(last) + 1))
    return settled(int(text) if text.lstrip("-").isdigit() else text)


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """The full names that a pattern means: `*` and `?` as in file names, `{2-5}` and `{0,3}`."""
    known = list(names)
    options = [pattern]
    while any(_BRACES.search(text) for text in options):
        options = [one for text in options for one in _expanded(text)]
    wanted = [re.sub(r"\{layer\}", "*", text) for text in options]
    return [name for name in known if any(fnmatchcase(name, text) for text in wanted)]


def _expanded(text: str) -> list[str]:
    found = _BRACES.search(text)
    if not found:
        return [text]
    first, last, listed = found.groups()
    numbers = listed.split(",") if listed else map(str, range(int(first), int(last) + 1))
    return [text[: found.start()] + n.strip() + text[found.end() :] for n in numbers]


def settle(node: Any) -> None:
    """Bring a node's address and numbers into one form, so that nodes that mean the same are equal.

    A full hook name becomes the name and its layers; layers and heads become text, a number or a
    tuple; numbers of numpy and torch become Python's.

    **Raises:** `NotationError` for a name, layers or heads that cannot be read, for layers that are
    named twice, and for what is no number where one is wanted.
    """
    given = vars(node)
    for field in fields(node):
        _settle_number(node, field.name, field.type)
    if "layers" in given:
        object.__setattr__(node, "layers", settled(node.layers))
    if "hook" in given:
        _settle_hook(node)
    if given.get("heads") is not None:
        object.__setattr__(node, "heads", _settled_heads(node.heads))


def _settle_number(node: Any, name: str, kind: Any) -> None:
    value = getattr(node, name)
    if getattr(value, "ndim", None) == 0:
        value = value.item()
        object.__setattr__(node, name, value)
    if kind not in (float, float | None) or value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Real):
        raise NotationError(f"{name} of {type(node).__name__} is a number; got {value!r}")


def _settle_hook(node: Any) -> None:
    point, layers = split_hook(node.hook)
    if layers is not None and node.layers != ":":
        raise NotationError(
            f"hook={node.hook!r} names its layers, and layers={node.layers!r} names others; write "
            f"hook={short_name(point)!r} with layers, or the full name alone"
        )
    object.__setattr__(node, "hook", short_name(point))
    if layers is not None:
        object.__setattr__(node, "layers", layers)


def _settled_heads(heads: Any) -> str | tuple[int, ...] | TopHeads | None:
    if isinstance(heads, TopHeads):
        return heads
    found = settled(heads, "head")
    if found == ":":
        return None
    return (found,) if isinstance(found, int) else found


def freeze(node: Any, *names: str) -> None:
    """Turn fields that were given as lists, arrays or tensors into tuples: a node is a value.

    **Raises:** `NotationError` for an array with more than one axis.
    """
    for name in names:
        value = getattr(node, name)
        if getattr(value, "ndim", 1) != 1:
            raise NotationError(
                f"{name} of {type(node).__name__} has one axis; got shape {tuple(value.shape)}"
            )
        if isinstance(value, list) or hasattr(value, "tolist"):
            object.__setattr__(node, name, tuple(getattr(value, "tolist", value.__iter__)()))
