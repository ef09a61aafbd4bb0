"""Saving nodes as JSON, and loading them; only known classes are loaded."""

import importlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from inspect import isabstract
from typing import Any, TypeVar

from ..errors import CapabilityError, NotationError, VsinkError
from ..storage import told
from .top_heads import TopHeads

NodeT = TypeVar("NodeT")
_OURS = re.compile(r"vsink_interp\.(edits|probes)(\.[a-z0-9_]+)*")
"""Where our own edits and probes are: imported for a file without asking."""
_BARE = (
    "a bare function, which JSON cannot carry; write it as a final frozen dataclass that inherits "
    "Edit or Probe"
)


def to_plain(node: Any) -> dict[str, Any]:
    """A node as JSON can hold it.

    **Raises:** `CapabilityError` for a node that holds a function, or values of a run.
    """
    kind = type(node)
    if isinstance(node, type) or not is_dataclass(node) or not getattr(node, "portable", True):
        raise CapabilityError(f"{node!r} holds {getattr(node, 'unportable', _BARE)}")
    inner = {field.name: _inner(getattr(node, field.name)) for field in fields(kind)}
    found = asdict(node) | {name: value for name, value in inner.items() if value is not None}
    return {"node": f"{kind.__module__}:{kind.__qualname__}", "fields": found}


def _inner(value: Any) -> dict[str, Any] | None:
    """What JSON holds of heads that rows choose, and of nodes in a node; None for others."""
    if isinstance(value, TopHeads):
        return {"TopHeads": asdict(value)}
    if isinstance(value, tuple) and value and all(map(is_dataclass, value)):
        return {"nodes": [to_plain(one) for one in value]}
    return None


def _read(value: Any, base: type[NodeT], trusted: Iterable[str], *, within: bool) -> Any:
    """The value of a field, from what JSON holds of it; a node within a node holds none."""
    if isinstance(value, Mapping) and value.keys() == {"TopHeads"}:
        return TopHeads.loaded(value["TopHeads"])
    if isinstance(value, Mapping) and value.keys() == {"nodes"} and not within:
        inner = value["nodes"]
        if not isinstance(inner, list):
            raise NotationError(f"the nodes in a node are {told(inner)}, and should be a list")
        return tuple(from_plain(one, base, trusted, within=True) for one in inner)
    return tuple(value) if isinstance(value, list) else value


def from_plain(
    data: Any, base: type[NodeT], trusted: Iterable[str], *, within: bool = False
) -> NodeT:
    """The node that `to_plain` made into JSON.

    **Arguments:**

    - `base`: the class that every node inherits.
    - `trusted`: modules that may be imported to find its class.
    - `within`: whether it is in a field of another node.

    **Raises:** `NotationError` naming the node and the field.
    """
    name = data.get("node") if isinstance(data, Mapping) else None
    kind = _kind(name, base, trusted)
    saved = data.get("fields")
    if not isinstance(saved, Mapping):
        raise NotationError(f"{name}: its fields are {told(saved)}, and should be an object")
    given = {k: _read(v, base, trusted, within=within) for k, v in saved.items()}
    known = [field for field in fields(kind) if field.init]  # ty: ignore[invalid-argument-type]
    extra = given.keys() - {field.name for field in known}
    lacking = {f.name for f in known if f.default is MISSING is f.default_factory} - given.keys()
    if extra or lacking:
        raise NotationError(
            f"{name} has no field {sorted(extra)}, or lacks {sorted(lacking)}; was it saved by "
            "another version?"
        )
    try:
        node = kind(**given)
        hash(node), repr(node)
    except VsinkError:
        raise
    except Exception as error:  # whatever a value of another type brings about in its class
        raise NotationError(f"{name} cannot have the fields {told(given)}: {error}") from error
    return node


def _kind(name: Any, base: type[NodeT], trusted: Iterable[str]) -> type[NodeT]:
    module = name.partition(":")[0] if isinstance(name, str) else ""
    if _OURS.fullmatch(module) or module in tuple(trusted):
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever the module does
            raise NotationError(f"{module!r} cannot be imported: {error}") from error
    known = {f"{kind.__module__}:{kind.__qualname__}": kind for kind in _below(base)}
    if (
        not isinstance(name, str)
        or name not in known
        or isabstract(known[name])
        or not is_dataclass(known[name])
    ):
        raise NotationError(
            f"a saved graph names {told(name)}, which is not an edit or a probe known here, or is "
            "not installed. Classes of other packages are known once their module is imported: "
            f"import it, or say trusted=({module or 'module'!r},) if you trust it"
        )
    return known[name]


def _below(kind: type[NodeT]) -> Iterator[type[NodeT]]:
    for one in kind.__subclasses__():
        yield one
        yield from _below(one)
