"""Attention of each word of an answer to the image, before and after VAR (Kang et al., fig. 1)."""

from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL.Image import Image
from torch import Tensor

from ..edits import VAR
from ..encoding import Encoding
from ..errors import LayoutError
from ..graph import EditGraph, Graphlike, as_graph
from ..lmm import LMM
from ..pictures import Picture
from ..probes import AttentionMaps, SinkValue
from ..results import Run
from ..spans import ImageSpan
from .answers import answer_values, answer_words
from .depth import map_layers

MAPS, VALUE = AttentionMaps(), SinkValue("image")


@final
@dataclass(frozen=True, eq=False)
class WordMaps:
    """The attention of the rows that predict each word of an answer, over the patches of a picture.

    **Attributes:**

    - `picture`: the picture.
    - `span`: its grid of image tokens, and the part of the picture that they cover.
    - `words`: the words of the answer.
    - `by_layer`, `edited_by_layer`: attention without and with the edit, 0 to 1: mean over heads
        and the rows of the word, at every block. Both are of the same words: the answer without
        the edit is fed back.
    - `sinks_by_layer`: which patches are sinks entering each block.
    - `layers`: the blocks that `before`, `after` and `sinks` are about; `at` chooses others.
    - `answer`, `edited_answer`: what the model says without and with the edit.
    - `graph`: the edit.
    """

    picture: Image
    span: ImageSpan
    words: tuple[str, ...]
    by_layer: Float[np.ndarray, "layer word patch"]
    edited_by_layer: Float[np.ndarray, "layer word patch"]
    sinks_by_layer: Bool[np.ndarray, "layer patch"]
    layers: tuple[int, ...]
    answer: str
    edited_answer: str
    graph: EditGraph

    def at(self, *layers: int) -> "WordMaps":
        """The same at other blocks."""
        return replace(self, layers=layers)

    @property
    def before(self) -> Float[np.ndarray, "word patch"]:
        """Attention without the edit, mean over `layers`."""
        return self.by_layer[list(self.layers)].mean(0)

    @property
    def after(self) -> Float[np.ndarray, "word patch"]:
        """Attention with the edit, mean over `layers`."""
        return self.edited_by_layer[list(self.layers)].mean(0)

    @property
    def sinks(self) -> Bool[np.ndarray, " patch"]:
        """Which patches are sinks at one of `layers` or more."""
        return np.logical_or.reduce(self.sinks_by_layer[list(self.layers)])

    @property
    def most_changed(self) -> int:
        """The block at which the edit moves the most attention."""
        return int(np.abs(self.edited_by_layer - self.by_layer).sum((1, 2)).argmax())


def word_maps(
    lmm: LMM,
    picture: Picture,
    prompt: str,
    *,
    graph: Graphlike = None,
    layers: tuple[int, ...] | None = None,
    max_new_tokens: int = 40,
) -> WordMaps:
    """Where each word of an answer looks, before and after an edit; `VAR()` by default.

    **Arguments:**

    - `graph`: the edit.
    - `layers`: the blocks to average over; 10 to 12 of 32, scaled to the model, by default.

    **Raises:** `CapabilityError` if the model has no sink dimensions, `LayoutError` if the answer
    has no words.
    """
    edit = as_graph(VAR() if graph is None else graph)
    at = map_layers(lmm.n_layers) if layers is None else layers
    encoding = lmm.encode(picture, prompt)
    run = lmm.generate(encoding, graph=MAPS | VALUE, max_new_tokens=max_new_tokens)
    edited = lmm.generate(encoding, graph=edit, max_new_tokens=max_new_tokens)
    again = lmm.run(with_answer(encoding, run), graph=edit | MAPS)
    words = answer_words(lmm, run)
    if not words:
        raise LayoutError(f"the answer {run.text!r} has no words to look at")
    span = run.tokens.images[0][0]
    sinks = run[VALUE].values[:, 0, : span.size] >= lmm.sinks.tau

    def pooled(source: Run) -> Float[np.ndarray, "layer word patch"]:
        rows = answer_values(source, MAPS)[:, 0, :, : span.size].float()
        return torch.stack([rows[:, list(word.rows)].mean(1) for word in words], 1).numpy()

    return WordMaps(
        encoding.pictures[0][0],
        span,
        tuple(word.text for word in words),
        pooled(run),
        pooled(again),
        sinks.numpy(),
        at,
        _text(run),
        _text(edited),
        edit,
    )


def with_answer(encoding: Encoding, run: Run) -> Encoding:
    """An encoded prompt with its answer written after it: one pass then gives the answer's rows."""
    new = run.generated
    inputs: dict[str, Any] = dict(encoding.inputs)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], new], 1)
    mask: Tensor = inputs["attention_mask"]
    inputs["attention_mask"] = torch.cat([mask, mask.new_ones(new.shape)], 1)
    return replace(encoding, inputs=inputs, tokens=encoding.tokens.extend(new.shape[1]))


def _text(run: Run) -> str:
    return run.text if isinstance(run.text, str) else run.text[0]
