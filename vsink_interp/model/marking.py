"""Words of the notation that a run of the model finds before the run they are used in."""

from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import CapabilityError, LayoutError, NotationError
from ..graph import EditGraph, Node, TopHeads
from ..probes import Pattern
from ..results import Run
from ..tokens.groups import VSINK, Top, measured_words, parse_top
from .encoding import Encoding
from .patch_features import ENTERING, FEATURES, PROJECTED, patch_features, patch_norms

_NO_GROUPS = frozenset({"prompt", "prefix", "text"})
"""Fields of nodes whose text is for the model, or for people."""


def mark(lmm: Any, encoding: Encoding, *words: str) -> Encoding:
    """The encoding with the tokens of words that a run finds: `vsink`, `top(group,count,layer)`.

    `run` and `generate` do it by themselves for the words of their graph, at the cost of one more
    pass over the prompt; do it yourself to see the tokens, or to use them again, in a session too.
    The pass is without edits. `top` compares the attention of the last prompt row, mean over heads
    (as FastV ranks tokens, Chen et al. 2024, arXiv 2403.06764). A token is a `vsink` if its patch,
    or the largest of its patches, enters the projector with at least twice the median norm of its
    image's; `encoding.marked("vsink", mask)` sets another choice.

    ```python
    encoding = vi.mark(lmm, lmm.encode(image, "What is this?"), "vsink", "top(image,5,2)")
    encoding.layout.mask("top(image,5,2) & ~vsink").sum()
    ```

    **Raises:** `NotationError` for another word; `LayoutError` if the prompt lacks the group;
    `CapabilityError` if the model has no such attention or patches, or the prompt was read before.
    """
    odd = [word for word in words if measured_words(word) != {word.replace(" ", "")}]
    if odd:
        raise NotationError(f"{odd[0]!r} is no word to find: 'vsink', or one as 'top(image,5%,2)'")
    wanted = {word.replace(" ", "") for word in words}
    return _marked(encoding, wanted, lambda graph: lmm.run(encoding, graph=graph), lmm)


def marked_for(
    lmm: Any, encoding: Encoding, graph: EditGraph, run: Callable[[EditGraph], Run]
) -> Encoding:
    """The encoding with every word of a graph that a run has to find and nobody found yet.

    **Arguments:**

    - `run`: makes a pass over the encoding with some probes.
    """
    wanted = {word for node in graph for word in words_to_find(node)}
    return _marked(encoding, wanted, run, lmm) if wanted else encoding


def words_to_find(node: Node) -> Iterable[str]:
    """The words to find in whatever groups a node names."""
    for text in _texts(node):
        yield from measured_words(text)


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple) and len(value) <= 64:
        for one in value:
            yield from _texts(one)
    elif isinstance(value, Node | TopHeads) and is_dataclass(value):
        for each in fields(value):
            if each.name not in _NO_GROUPS:
                yield from _texts(getattr(value, each.name))


def _marked(
    encoding: Encoding, wanted: set[str], run: Callable[[EditGraph], Run], lmm: Any
) -> Encoding:
    new = sorted(wanted - {word for word, _ in encoding.layout.marks})
    if not new:
        return encoding
    if encoding.cached_prefix is not None:
        raise CapabilityError(
            f"{', '.join(new)}: found in a pass over the whole prompt, and this one has been read "
            "already; mark the encoding before, or ask with the whole prompt"
        )
    tops = {word: parse_top(word) for word in new if word != VSINK}
    layout = encoding.layout
    for top in tops.values():
        layout.check_group(top.group)
    if VSINK in new:
        layout.check_group("image")
    layers = tuple(sorted({top.layer for top in tops.values()}))
    probe = Pattern("last", layers=layers)
    nodes = [*([FEATURES, PROJECTED, ENTERING] if VSINK in new else []), *([probe] if tops else [])]
    found = run(EditGraph(*nodes))
    for word, top in tops.items():
        attention = found[probe].at(layer=top.layer).values.float().mean(1)[:, 0]
        layout = layout.marked(word, _highest(attention, layout.mask(top.group), top))
    if VSINK in new:
        layout = layout.marked(VSINK, _outliers(lmm, found))
    return replace(encoding, layout=layout)


def _highest(
    attention: Float[Tensor, "batch token"], group: Bool[Tensor, "batch token"], top: Top
) -> Bool[Tensor, "batch token"]:
    """The tokens of a group with the most attention, in every sample."""
    sizes = group.sum(-1)
    counts = torch.full_like(sizes, top.count)
    if top.share:
        counts = (counts * sizes // 100).clamp_min(1)
    if (small := (sizes > 0) & (sizes <= counts)).any() and not top.share:
        at = int(small.nonzero()[0])
        raise LayoutError(
            f"top({top.group},{top.count},{top.layer}): sample {at} has {int(sizes[at])} tokens of "
            f"{top.group!r}, so all of them would be chosen"
        )
    inside = attention.masked_fill(~group, -1.0)
    ranked = inside.sort(dim=-1, descending=True, stable=True).indices
    return group & (ranked.argsort(-1) < counts[:, None])


def _outliers(lmm: Any, run: Run) -> Bool[Tensor, "batch token"]:
    """The image tokens whose patches have outlying norms."""
    layout, record = run.layout, run[ENTERING]
    rows = list(record.labels("query"))
    found = torch.zeros_like(layout.roles)
    for sample, images in enumerate(layout.images):
        for number in range(len(images)):
            places = (layout.image_index[sample] == number).nonzero().flatten()
            entering = record.values[0, sample][[rows.index(at) for at in places.tolist()]]
            norms, least = patch_norms(patch_features(lmm, run, entering))
            found[sample, places] = norms >= least
    return found
