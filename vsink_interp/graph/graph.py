"""Edits and probes as values, and the graphs that they join into."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, overload

from jaxtyping import Bool
from torch import Tensor
from typing_extensions import override

from ..errors import NotationError
from ..storage import entry, read_json, reading, refuse_format, write_text
from ..tokens import TokenLayout
from . import drawing
from .address import settle
from .extent import Edges, Sizes
from .hook_points import CACHE, ORDER, HookPoint, find_hook
from .index_notation import Layers, resolve, resolve_layers
from .saved import from_plain, to_plain
from .site import Site

TokenOf: TypeAlias = Callable[[str | int], int]
"""From a word, or an id, to the id of the one token that it is."""


class Node(ABC):
    """An edit or a probe: an immutable value with an address and a kernel.

    A subclass is a frozen dataclass with `hook` and `layers`, final, and overrides each method
    at most once.
    """

    hook: str
    layers: Layers

    def __post_init__(self) -> None:
        """Bring the address into one form; a subclass with its own checks calls `settle` first."""
        settle(self)

    @property
    def point(self) -> HookPoint:
        """The hook point that it acts on."""
        return find_hook(self.hook)

    @property
    def needs_phi(self) -> bool:
        """Whether it needs the sink value (phi) of each token."""
        return False

    @property
    def needs_new_phi(self) -> bool:
        """Whether it needs the sink values of generated tokens too, not only of the prompt."""
        return self.needs_phi

    @property
    def removes(self) -> Edges | None:
        """The edges of attention that it removes, if that is all it does and they are known."""
        return None

    @property
    def acts_on(self) -> tuple[Edges, ...]:
        """Sets of edges of attention; if all edges of one set are gone, it changes nothing."""
        return ()

    @property
    def keeps_keys(self) -> bool:
        """Whether it leaves at least one key to every row that had one."""
        return False

    @property
    def sums_keys(self) -> bool:
        """Whether it only sums over keys, so that keys that no row sees may be left out."""
        return False

    @property
    def needs_sinks(self) -> bool:
        """Whether the model's sink dimensions must be known."""
        return self.needs_phi

    @property
    def needs_values(self) -> bool:
        """Whether it needs the values and output weights of attention."""
        return False

    @property
    def needs_total(self) -> bool:
        """Whether it needs the logarithm of the sum of the exponentials of each row's scores."""
        return False

    @property
    def needs_unembed(self) -> bool:
        """Whether it needs the final norm and the unembedding."""
        return False

    @property
    def needs_gradient(self) -> bool:
        """Whether it takes part in a backward pass."""
        return False

    @property
    def reshapes(self) -> bool:
        """Whether what it returns has another number of patches than what it was given."""
        return False

    @property
    def whole(self) -> bool:
        """Whether its kernel must see all query rows at once."""
        return False

    def resolved_layers(self, n_layers: int) -> tuple[int, ...]:
        """The layers it acts on in a model of `n_layers` layers."""
        return resolve_layers(self.layers, n_layers)

    def sized(self, sizes: Sizes) -> "Node":
        """The node for a model of these sizes: heads that were written as text are numbers."""
        heads = getattr(self, "heads", None)
        if not isinstance(heads, str):
            return self
        found: Any = self
        count = sizes.n_kv_heads if "kv_head" in self.point.axes else sizes.n_heads
        return replace(found, heads=tuple(resolve(heads, count, "head", "a layer")))

    def left_out(self, n_layers: int) -> tuple[int, ...]:
        """The layers that `layers` names and that it leaves out by its own rules."""
        del n_layers
        return ()

    def worded(self, token: TokenOf) -> "Node":
        """The node for a model whose tokenizer gives words these ids."""
        del token
        return self

    def fit(self, sizes: Sizes) -> None:
        """Refuse a model in which it cannot act, for instance one with fewer heads."""

    def check(self, layout: TokenLayout, *, generates: bool) -> None:
        """Refuse a prompt on which it would not act."""

    @property
    def targets(self) -> tuple[str, bool] | None:
        """The group of query rows it changes or reads, and whether the last prompt row counts as
        generated; None means all rows.
        """
        return None

    def __or__(self, other: "Node | EditGraph") -> "EditGraph":
        """Join with another node or graph; at a shared hook point nodes act left to right."""
        return EditGraph(self) | other

    def to_json(self) -> str:
        """This node as a graph in JSON; `EditGraph.from_json` reads it."""
        return EditGraph(self).to_json()


class Edit(Node):
    """A node that changes the value at its hook point.

    ```python
    class Halve(vi.Edit):                           # with fields and JSON: own-edits.md
        layers, hook = ":", "hook_attn_out"
        def apply(self, value, site):
            return value / 2
    lmm.generate(image, prompt, Halve(), max_new_tokens=2).text
    ```
    """

    @property
    def is_foreign(self) -> bool:
        """Whether it runs code from outside this package: what it returns is looked through."""
        return type(self).__module__.partition(".")[0] != __name__.partition(".")[0]

    @abstractmethod
    def apply(self, value: Tensor, site: Site) -> Tensor:
        """The new value."""


class CacheEdit(Node):
    """A node that changes the KV cache that the prefill leaves to decode steps."""

    hook: ClassVar[str] = CACHE.name

    @property
    @override
    def point(self) -> HookPoint:
        return CACHE

    @property
    def takes(self) -> Edges | None:
        """The edges that later rows lose, also of groups whose sinks only the run knows."""
        return None

    @abstractmethod
    def dropped(self, site: Site) -> Bool[Tensor, "batch key"]:
        """The tokens whose keys and values are removed from the cache of a layer."""


class Probe(Node):
    """A node that records something and changes nothing.

    `axes` names the axes of its record at one layer.
    """

    axes: tuple[str, ...]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse axes in one text, of which every letter would be an axis."""
        super().__init_subclass__(**kwargs)
        if isinstance(axes := vars(cls).get("axes"), str):
            raise NotationError(
                f"axes of {cls.__name__} is a tuple of names, {tuple(axes.split())!r}; got {axes!r}"
            )

    @property
    def about(self) -> str | None:
        """The group of keys that it says something of: rows that can see none do not count."""
        return None

    @abstractmethod
    def measure(self, value: Tensor, site: Site) -> Tensor:
        """The value to record, with one axis per name in `axes`."""


class EditGraph:
    """Edits and probes joined by `|`, immutable.

    Graphs compare and hash by their nodes, `eval(repr(graph)) == graph`, and `|` is associative
    with the empty graph as its unit.

    ```python
    graph = vi.Knockout("image -> query", "4:") | vi.probes.SegmentMass()
    graph == vi.EditGraph.from_json(graph.to_json())
    print(graph[0], len(graph), [type(node).__name__ for node in graph])
    ```
    """

    __slots__ = ("nodes",)
    nodes: tuple[Node, ...]

    def __init__(self, *nodes: "Node | EditGraph") -> None:
        flat: list[Node] = []
        for node in nodes:
            if isinstance(node, EditGraph):
                flat += node.nodes
            elif isinstance(node, Node):
                flat.append(node)
            elif isinstance(node, type) and issubclass(node, Node):
                raise NotationError(
                    f"{node.__name__} is a class; an edit graph holds values: {node.__name__}(...)"
                )
            else:
                raise NotationError(
                    f"an edit graph holds edits and probes; got {type(node).__name__}. Wrap a hook "
                    "function as Fn(hook, function), a probe function with @probe(hook)"
                )
        object.__setattr__(self, "nodes", tuple(flat))

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse: graphs are values."""
        raise AttributeError("an EditGraph is immutable; join graphs with |")

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and pickled by its nodes, because its attributes cannot be set."""
        return EditGraph, self.nodes

    def __or__(self, other: "Node | EditGraph") -> "EditGraph":
        """Join two graphs."""
        return EditGraph(self, other)

    def __eq__(self, other: object) -> bool:
        """Same nodes in the same order."""
        return isinstance(other, EditGraph) and self.nodes == other.nodes

    def __hash__(self) -> int:
        return hash(self.nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    @overload
    def __getitem__(self, place: int) -> Node: ...

    @overload
    def __getitem__(self, place: slice) -> "EditGraph": ...

    def __getitem__(self, place: int | slice) -> "Node | EditGraph":
        """One node, or a slice of them as a graph."""
        found = self.nodes[place]
        return EditGraph(*found) if isinstance(found, tuple) else found

    def __repr__(self) -> str:
        return f"EditGraph({', '.join(map(repr, self.nodes))})"

    def __str__(self) -> str:
        """One line per node: kind, hook point, layers, the node itself."""
        return drawing.as_text([_row(node) for node in self.nodes])

    def mermaid(self) -> str:
        """The graph as a mermaid flowchart, in forward order."""
        ordered = sorted(self.nodes, key=lambda node: ORDER[node.point.template])
        return drawing.as_mermaid([_row(node) for node in ordered])

    def _repr_html_(self) -> str:
        return drawing.as_html([_row(node) for node in self.nodes])

    def to_json(self) -> str:
        """The graph as JSON text.

        **Raises:** `CapabilityError` for a node that holds a function or values of a run.
        """
        return json.dumps({"format": 1, "nodes": [to_plain(node) for node in self.nodes]}, indent=1)

    @classmethod
    def from_json(cls, text: str, *, trusted: Iterable[str] = ()) -> "EditGraph":
        """The graph that `to_json` wrote.

        Its nodes are of classes that are here: ours, and those of modules imported before.

        **Arguments:**

        - `trusted`: names of modules that may be imported for it, which runs them.

        **Raises:** `NotationError` if the text is no graph, or names an unknown node.
        """
        try:
            data = json.loads(text)
            nodes = data["nodes"] if data["format"] == 1 else None
        except (ValueError, KeyError, TypeError, RecursionError):
            nodes = None
        if not isinstance(nodes, list) or not all(isinstance(node, dict) for node in nodes):
            raise NotationError("this is not an edit graph in format 1; write one with to_json()")
        return cls(*(from_plain(node, Node, trusted) for node in nodes))

    def save(self, path: str | Path) -> None:
        """Write the graph to a JSON file, whole or not at all.

        **Raises:** `CapabilityError` as `to_json`; `ResultError` if it cannot be written.
        """
        write_text(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path, *, trusted: Iterable[str] = ()) -> "EditGraph":
        """Read a graph from a JSON file; `trusted` as `from_json` takes it.

        **Raises:** `ResultError` naming the file and what is wrong with it.
        """
        data = read_json(path, "edit graph; write one with graph.save(path)")
        refuse_format(data, 1, path)
        entry(data, "nodes", list, path)
        with reading(path, "nodes"):
            return cls.from_json(json.dumps(data), trusted=trusted)


Graphlike: TypeAlias = "EditGraph | Node | Iterable[Node] | None"


def as_graph(graph: Graphlike) -> EditGraph:
    """A graph from a graph, a node, several nodes, or None."""
    if graph is None:
        return EditGraph()
    return EditGraph(*graph) if isinstance(graph, Iterable) else EditGraph(graph)


def _row(node: Node) -> drawing.Row:
    kind = "probe" if isinstance(node, Probe) else "edit"
    layers = "" if node.point.stack is None else f"layers {node.layers}"
    return drawing.Row(kind, node.hook, layers, repr(node))
