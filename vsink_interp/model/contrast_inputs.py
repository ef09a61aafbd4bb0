"""The inputs of second passes: distorted images, other prompts (for `edits.Contrast`)."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..edits import Contrast
from ..engine import ContrastInputs
from ..errors import CapabilityError, NotationError
from ..graph import CacheEdit, EditGraph, Node, Probe, find_hook
from ..graph.plan import Plan
from .encoding import Encoding
from .marking import words_to_find
from .rendering import IMAGE


def second_passes(
    lmm: Any, plan: Callable[..., Plan], planned: Plan, encoding: Encoding, n_new: int
) -> dict[int, ContrastInputs]:
    """The inputs of one second pass per `Contrast` of a planned graph, by its index in the graph.

    **Arguments:**

    - `plan`: makes a plan from a graph and an encoding.
    - `n_new`: the number of tokens that the run may generate.

    **Raises:** `NotationError` if edits should act in a second pass and there are none;
    `CapabilityError` if edits outside attention should act in a second pass, or the image cannot be
    distorted.
    """
    found: dict[int, ContrastInputs] = {}
    for number, node in enumerate(planned.graph):
        if isinstance(node, Contrast):
            other = _spoiled(lmm, node, encoding)
            answer = encoding.inputs["input_ids"][:, encoding.layout.prompt_length :]
            if node.rewords and answer.shape[1]:
                other = other.with_answer(answer)
            edits = _followed(lmm, node, planned) if node.edited else node.graph
            _refuse_words(node, edits)
            its_plan = plan(EditGraph(*edits), other, generates=n_new > 1) if edits else None
            if its_plan is not None and node.graph:
                _refuse_outside(lmm, node, its_plan)
            layout = other.layout.extend(n_new)
            found[number] = ContrastInputs(other.inputs, layout, its_plan, answer.shape[1] + 1)
    return found


def _followed(lmm: Any, node: Contrast, planned: Plan) -> list[Node]:
    """The edits that act in the second pass too."""
    edits = [n for n in planned.graph if not isinstance(n, Contrast | Probe)]
    if not edits:
        raise NotationError(f"{node!r}: no other edit could act there; leave edited=False")
    _refuse_outside(lmm, node, planned)
    return edits


def _refuse_words(node: Contrast, edits: Iterable[Node]) -> None:
    """Refuse words that a run finds in the prompt of the first pass, if the second has another."""
    found = sorted({word for edit in edits for word in words_to_find(edit)})
    if node.rewords and found:
        raise CapabilityError(
            f"{node!r}: {', '.join(found)} is found in the prompt of the first pass, and the "
            "second has another; name tokens by segments, as 'image', or leave prompt, prefix and "
            "image='none' out"
        )


def _refuse_outside(lmm: Any, node: Contrast, planned: Plan) -> None:
    """Refuse edits that the second pass does not reach.

    **Arguments:**

    - `planned`: a plan with those edits.
    """
    edits = {i: n for i, n in enumerate(planned.graph) if not isinstance(n, Contrast | Probe)}
    reached = {i for i, n in edits.items() if isinstance(n, CacheEdit)} | {
        number
        for (template, layer), nodes in planned.places.items()
        for number, _ in nodes
        if lmm.hooked.computes(find_hook(template), layer)
    }
    if outside := [n for i, n in edits.items() if i not in reached]:
        raise CapabilityError(
            f"{node!r} lets edits act in the second pass, which reaches those inside attention "
            f"and of the cache only; {outside[0]!r} acts on {outside[0].hook!r}. Leave it out, or "
            "edited=False"
        )


def _spoiled(lmm: Any, node: Contrast, encoding: Encoding) -> Encoding:
    """The encoding of the second pass; without the answer, if its prompt has other tokens."""
    if any(encoding.layout.frames) and (node.image is not None or node.rewords):
        raise CapabilityError(f"{node!r}: contrasts are made of images, not of videos; give frames")
    other = _reworded(lmm, node, encoding) if node.rewords else encoding
    if node.image != "noise":
        return other
    n_images = [len(row) for row in encoding.images]
    pixels = other.inputs[other.pixels]
    grids = other.inputs.get("image_grid_thw")  # where pixels come as a list of patches
    views = [len(span.parts) for row in other.layout.images for span in row]
    if grids is not None:
        sizes = grids.prod(-1).tolist()
    else:  # or as one of each view, or as one of each image
        sizes = views if len(pixels) == sum(views) else None
    if lmm.hooked.family.tiles_by_prompt:
        counts = [[len(span.parts) for span in row] for row in other.layout.images]
        new = _spoiled_tiles(node, pixels, counts)
    else:
        framed = lmm.hooked.family.framed
        areas = [(int(y), int(x)) for y, x in other.inputs["image_sizes"]] if framed else None
        new = node.spoiled(pixels, n_images, sizes, areas)
    return replace(other, inputs={**other.inputs, other.pixels: new})


def _spoiled_tiles(
    node: Contrast, pixels: Float[Tensor, "batch tile channel y x"], counts: list[list[int]]
) -> Float[Tensor, "batch tile channel y x"]:
    """Add noise to the tiles of each image, given the number of tiles of each.

    Empty tiles get none, because the model recognises them by their zeros.
    """
    lengths = [sum(each) for each in counts]
    real = torch.cat([row[:n] for row, n in zip(pixels, lengths, strict=True)])
    sizes = [n for each in counts for n in each]
    found = node.spoiled(real, [len(each) for each in counts], sizes)
    new = zip(found.split(lengths), pixels, lengths, strict=True)
    return torch.stack([torch.cat([part, row[n:]]) for part, row, n in new])


def _reworded(lmm: Any, node: Contrast, encoding: Encoding) -> Encoding:
    images, texts = list(map(list, encoding.images)), encoding.prompts
    if node.prompt:
        texts = (node.prompt,) * len(texts)
    if node.prompt and encoding.chat:
        texts = lmm.encode(images, list(texts)).prompts
    shown = [[] for _ in images] if node.image == "none" else images
    words = (IMAGE, lmm.hooked.family.word, lmm.hooked.family.marker)
    begin = lmm.processor.tokenizer.bos_token
    return lmm.encode(shown, [node.reworded(text, words, begin) for text in texts], chat=False)
