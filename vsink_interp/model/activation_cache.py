"""Activation caches: activations of a run by full hook name, and the memory that they take."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from typing import Any, TypeAlias, final

from torch import Tensor

from ..errors import CapabilityError, NotationError, ResultError, unknown
from ..graph import EditGraph, HookPoint, Node, find_hook, matching, parse_hook, short_name
from ..probes import Activation, Logits, Pattern, Resid
from ..results import Recorded, Run
from .encoding import Encoding

NamesFilter: TypeAlias = str | Iterable[str] | Callable[[str], bool] | None
"""A selection of hook points: a full name, a pattern such as `blocks.{2-5}.attn.*`, several, or a
function of the full name; None for all."""

LARGEST_GB = 4.0
"""A cache without a filter that would take more memory than this is refused."""
ON_DEMAND = ("attn.hook_result",)
"""As large as a residual stream per head: cached where it is named, as in TransformerLens."""


@final
class ActivationDict(Mapping[str, Tensor]):
    """Full hook names and their values, in forward order.

    `cache["blocks.3.attn.hook_pattern"]`, or as TransformerLens abbreviates it,
    `cache["pattern", 3]`.
    """

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str | tuple[str, int]) -> Tensor:
        """One value.

        **Raises:** `ResultError`, a `KeyError`'s base, listing what is there.
        """
        for full in [name] if isinstance(name, str) else _spelt_out(*name):
            if full in self._values:
                return self._values[full]
        asked = name if isinstance(name, str) else _spelt_out(*name)[0]
        raise ResultError(unknown("name of this cache", asked, self._values))

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        size = sum(x.numel() * x.element_size() for x in self._values.values()) / 1e9
        names = list(self._values)
        shown = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
        return f"ActivationDict({len(names)} activations, {size:.3g} GB: {shown})"


def _spelt_out(name: str, layer: int) -> list[str]:
    return [f"blocks.{layer}.{part}hook_{name}" for part in ("attn.", "", "mlp.")]


def cache_graph(lmm: Any, names_filter: NamesFilter) -> EditGraph:
    """The probes that fill a cache.

    **Arguments:**

    - `names_filter`: over `blocks.3.hook_mlp_out` and the other names of the hook table.

    **Raises:** `NotationError` for an unknown name, `ResultError` if no name passes the filter.
    """
    layers: dict[str, list[int]] = {}
    for point, layer in map(parse_hook, chosen(lmm, names_filter)):
        layers.setdefault(short_name(point), []).extend([] if layer is None else [layer])
    if not layers:
        raise ResultError(f"no hook point passes names_filter; there are: {', '.join(lmm.hooks)}")
    return EditGraph(*(Activation(name, tuple(at) or ":") for name, at in layers.items()))


def chosen(lmm: Any, names_filter: NamesFilter) -> list[str]:
    """The full names that a filter keeps, of those that the model offers.

    **Raises:** `NotationError` for an unknown name, or a pattern that no name fits.
    """
    known = _all_names(lmm)
    if names_filter is None:
        return known
    if callable(names_filter):
        return list(filter(names_filter, known))
    patterns = [names_filter] if isinstance(names_filter, str) else names_filter
    return [name for pattern in patterns for name in _meant(pattern, known)]


def _meant(pattern: str, known: list[str]) -> list[str]:
    if not set("*?{") & set(pattern):
        parse_hook(pattern)
        return [pattern]
    found = matching(pattern, known)
    if not found:
        raise NotationError(
            f"{pattern!r} fits no hook point of this model; names are such as {known[0]!r} and "
            f"{known[-2]!r}, patterns such as 'blocks.*.attn.hook_z' and 'blocks.{{2-5}}.*'"
        )
    return found


def _all_names(lmm: Any) -> list[str]:
    return [
        point.at(layer)
        for point in map(find_hook, lmm.hooks)
        for layer in ((None,) if point.stack is None else lmm.hooked.offering(point))
    ]


def whole_cache(lmm: Any, encoding: Encoding) -> list[str]:
    """The names of a cache without a filter, for one prompt.

    **Raises:** `CapabilityError` if it would take more than `LARGEST_GB`, with filters to write.
    """
    images = any(encoding.images)
    kinds = lmm.hooked.kinds
    names = []
    for name in _all_names(lmm):
        point, layer = parse_hook(name)
        unseen = "vision" in name or (
            point.stack == "blocks" and layer is not None and kinds[layer] == "cross_attention"
        )
        if point.name not in ON_DEMAND and (images or not unseen):
            names.append(name)
    _refuse_large(lmm, encoding, names)
    return names


def _refuse_large(lmm: Any, encoding: Encoding, names: list[str]) -> None:
    sizes = _sizes(lmm, encoding)
    width = next(lmm.hf_model.parameters()).element_size()
    taken: dict[str, float] = {}
    for name in names:
        point = parse_hook(name)[0]
        taken[point.template] = taken.get(point.template, 0) + _gb(point, sizes, width)
    if (whole := sum(taken.values())) > LARGEST_GB:
        most = sorted(taken, key=lambda template: -taken[template])[:3]
        raise CapabilityError(
            f"a cache of every hook point of this prompt would take about {whole:.1f} GB, more "
            f"than {LARGEST_GB:g}: "
            + ", ".join(f"{template} {taken[template]:.1f}" for template in most)
            + ". Say what to keep: names_filter='blocks.*.hook_resid_post', "
            "names_filter=['blocks.{2-5}.attn.hook_pattern', 'unembed.hook_out'], or a function of "
            "the name; names_filter='*' keeps all"
        )


def _gb(point: HookPoint, sizes: Mapping[str, int], width: int) -> float:
    # Scores and patterns are fp32 in every model.
    each = 4 if "key" in point.axes and "query" in point.axes else width
    return prod(sizes[axis] for axis in point.axes) * each / 1e9


def _sizes(lmm: Any, encoding: Encoding) -> dict[str, int]:
    """How long each axis of the hook table is, roughly for the vision side."""
    config, hooked = lmm.hooked.config, lmm.hooked
    heads, length = hooked.n_heads["head"], encoding.layout.length
    vision = getattr(lmm.config, "vision_config", None)
    pixels = encoding.inputs.get(encoding.pixels)
    side = getattr(vision, "patch_size", None) or 14
    side = side if isinstance(side, int) else side[0]
    return {
        "batch": encoding.layout.batch,
        "query": length,
        "key": length,
        "head": heads,
        "kv_head": hooked.n_heads["kv_head"],
        "d_head": hooked.d_head,
        "d_model": lmm.d_model,
        "d_mlp": getattr(config, "intermediate_size", None) or 4 * lmm.d_model,
        "vocab": config.vocab_size,
        "image": 1,
        "patch": 0 if pixels is None else pixels.numel() // (3 * side**2),
        "d_vision": getattr(vision, "hidden_size", None) or lmm.d_model,
    }


def entries(run: Run) -> Iterator[tuple[str, Tensor]]:
    """Full name and value of every activation; of one recorded twice the later, behind the edits.

    **Raises:** `ResultError` if a record holds only some rows.
    """
    for node in run.graph:
        if isinstance(node, Activation | Resid | Pattern | Logits):
            yield from _of_node(node, _last_record(run, node))


def _last_record(run: Run, node: Node) -> Recorded:
    several = [name for name in run.records if name.startswith(f"{node!r}#")]
    return run[several[-1] if several else node]


def _of_node(node: Node, record: Recorded) -> Iterator[tuple[str, Tensor]]:
    if "step" in record.axes:  # keys after the rotary embedding: the last step holds them all
        steps = record.values.shape[record.axis("step")]
        record = record.at(step=steps - 1)
    rows = record.coords.get("query", ())
    if rows and tuple(rows) != tuple(range(len(rows))):
        raise ResultError(
            f"{node!r} holds the rows {rows[0]} to {rows[-1]} alone, and the entries of a cache "
            "share their positions; record all rows, as integrations.cache_graph does"
        )
    if "layer" not in record.axes:
        yield node.point.at(None), record.values
        return
    for i, layer in enumerate(record.labels("layer")):
        yield node.point.at(layer), record.values[i]
