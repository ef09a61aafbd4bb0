"""Attention maps of each word of an answer, before and after VAR (Kang et al., figure 1)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, final

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL.Image import Image

from ..edits import VAR
from ..errors import LayoutError
from ..graph import EditGraph, Graphlike, Layers, as_graph
from ..model import LMM, ImageInput, Tick
from ..model.progress import shown
from ..probes import AttentionMaps, SinkValue
from ..results import Run
from ..results.result import Result
from ..tokens import ImageSpan
from .answers import AnswerWord, answer_words
from .depth import chosen_layers, map_layers, pattern_layers
from .provenance import with_provenance

VALUE = SinkValue("image")


@final
@dataclass(frozen=True, eq=False, repr=False)
class WordMaps(Result):
    """Attention to image tokens of the rows that predict each word of an answer.

    **Attributes:**

    - `image`: the image.
    - `span`: its grid of image tokens, and the part of the image that they cover.
    - `words`: the words of the answer.
    - `by_layer`, `edited_by_layer`: attention without and with the edit, 0 to 1: mean over heads
        and the word's rows, at every layer; NaN at layers without a pattern. Both are for the same
        words, because the unedited answer is fed back under the edit.
    - `sinks_by_layer`: which patches are sinks in each layer.
    - `layers`: the layers of `before`, `after` and `sinks`; `at` chooses others.
    - `answer`, `edited_answer`: the model's answers without and with the edit.
    - `graph`: the edit.
    """

    figure: ClassVar[str] = "overlay"
    axis_labels: ClassVar[Mapping[str, str]] = {"layer": "", "word": "numbered"}

    image: Image
    span: ImageSpan
    words: tuple[str, ...]
    by_layer: Float[np.ndarray, "layer word patch"]
    edited_by_layer: Float[np.ndarray, "layer word patch"]
    sinks_by_layer: Bool[np.ndarray, "layer patch"]
    layers: tuple[int, ...]
    answer: str
    edited_answer: str
    graph: EditGraph

    @property
    def numbered(self) -> tuple[str, ...]:
        """The words with their places, which tell equal ones apart."""
        return tuple(f"{i}: {word}" for i, word in enumerate(self.words))

    def at(self, *layers: int) -> "WordMaps":
        """The same maps at other layers."""
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
        """Which patches are sinks in at least one of `layers`."""
        return np.logical_or.reduce(self.sinks_by_layer[list(self.layers)])

    @property
    def most_changed(self) -> int:
        """The layer in which the edit moves the most attention."""
        return int(np.nansum(np.abs(self.edited_by_layer - self.by_layer), (1, 2)).argmax())


@with_provenance
def word_maps(
    lmm: LMM,
    image: ImageInput,
    prompt: str,
    *,
    graph: Graphlike = None,
    layers: Layers | None = None,
    max_new_tokens: int = 40,
    sinks: bool = True,
    tick: Tick | None = None,
) -> WordMaps:
    """Attention maps of each word of an answer, before and after an edit; VAR by default.

    ```python
    maps = ex.word_maps(lmm, image, "describe the image", graph=vi.VAR(), max_new_tokens=6)
    maps.plot(words=[maps.words[1]])
    ```

    **Arguments:**

    - `graph`: the edit, `VAR(rho=0.5)` by default; `EditGraph()` for none: then
        there is only a before.
    - `layers`: the layers to average over; 10 to 12 of 32, scaled to the model, by default, and
        those of them that have a pattern.
    - `sinks`: False leaves sinks unmarked, for a model that has none.
    - `tick`: called in the place of a progress bar, after every answer.

    **Raises:** `CapabilityError` if the model has no sink dimensions, `LayoutError` if the answer
    has no words.
    """
    edit = as_graph(_var(lmm) if graph is None else graph)
    maps = AttentionMaps(layers=pattern_layers(lmm))
    at = chosen_layers(lmm, layers, map_layers(lmm.n_layers))
    encoding = lmm.encode(image, prompt)
    probes = maps | VALUE if sinks else maps
    run = edited = again = lmm.generate(encoding, graph=probes, max_new_tokens=max_new_tokens)
    tell, answers = shown(tick, "answers"), 3 if edit else 1
    tell(1, answers)
    if edit:
        edited = lmm.generate(encoding, graph=edit, max_new_tokens=max_new_tokens)
        tell(2, answers)
        again = lmm.run(encoding.with_answer(run), graph=edit | maps)
        tell(3, answers)
    words = answer_words(lmm, run)
    if not words:
        raise LayoutError(f"the answer {run.text!r} has no words to draw maps of")
    span = run.layout.images[0][0]
    boxed = torch.zeros(lmm.n_layers, span.size, dtype=torch.bool)
    if sinks:
        boxed = run.of(VALUE, "image[0]").values[:, 0] >= lmm.sinks.tau
    return WordMaps(
        encoding.images[0][0],
        span,
        tuple(word.text for word in words),
        _by_word(run, maps, words, lmm.n_layers),
        _by_word(again, maps, words, lmm.n_layers),
        boxed.numpy(),
        at,
        _text(run),
        _text(edited),
        edit,
    )


def _var(lmm: LMM) -> VAR:
    """VAR in all layers that have a pattern, except the last of the model."""
    everywhere = isinstance(pattern_layers(lmm), str)
    return VAR(rho=0.5) if everywhere else VAR(rho=0.5, layers=pattern_layers(lmm, ":-1"))


def _by_word(
    run: Run, maps: AttentionMaps, words: tuple[AnswerWord, ...], n_layers: int
) -> Float[np.ndarray, "layer word patch"]:
    """Attention of the rows of each word; NaN at layers without a pattern."""
    rows = run.of(run.answering(maps), "image[0]").values[:, 0].float()
    whole = np.full((n_layers, len(words), rows.shape[-1]), np.nan, dtype=np.float32)
    by_word = torch.stack([rows[:, list(word.rows)].mean(1) for word in words], 1)
    whole[list(run[maps].labels("layer"))] = by_word.numpy()
    return whole


def _text(run: Run) -> str:
    return run.text if isinstance(run.text, str) else run.text[0]
