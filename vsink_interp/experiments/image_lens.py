"""The logit lens over the patches of an image, layer by layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float, Shaped
from PIL.Image import Image

from ..errors import InputError
from ..graph import Graphlike, Layers, as_graph
from ..model import LMM, ImageInput, Tick
from ..model.progress import shown
from ..probes import LogitLens, TokenProbability
from ..results import Run
from ..results.result import Result
from ..tokens import ImageSpan
from .provenance import with_provenance


@final
@dataclass(frozen=True, eq=False, repr=False)
class ImageLens(Result):
    """The most likely words of each image token after each layer.

    **Attributes:**

    - `image`: the image.
    - `span`: its image tokens; the record covers those of the view that shows the whole image.
    - `layers`: the layers.
    - `words`: by layer, patch and rank, the most likely first.
    - `probability`: their probabilities, 0 to 1.
    """

    figure: ClassVar[str] = "image_lens"
    columns: ClassVar[Mapping[str, str]] = {"word": "said"}

    image: Image
    span: ImageSpan
    layers: tuple[int, ...]
    words: tuple[tuple[tuple[str, ...], ...], ...]
    probability: Float[np.ndarray, "layer patch rank"]

    @property
    def said(self) -> Shaped[np.ndarray, "layer patch rank"]:
        """The words as an array."""
        return np.array(self.words, object).reshape(self.probability.shape)

    def count(self, layer: int) -> list[tuple[str, int]]:
        """The top words at a layer, with the number of patches for each."""
        said = [ranked[0] for ranked in self.words[self.layers.index(layer)]]
        return sorted(((word, said.count(word)) for word in set(said)), key=lambda x: (-x[1], x[0]))


@final
@dataclass(frozen=True, eq=False, repr=False)
class WordLens(Result):
    """The probability of given words at each image token after each layer.

    **Attributes:**

    - `image`, `span`, `layers`: as in `ImageLens`.
    - `words`: the words.
    - `probability`: 0 to 1.
    """

    figure: ClassVar[str] = "word_lens"

    image: Image
    span: ImageSpan
    layers: tuple[int, ...]
    words: tuple[str, ...]
    probability: Float[np.ndarray, "word layer patch"]

    @property
    def confidence(self) -> Float[np.ndarray, " word"]:
        """The largest probability of each word over layers and patches.

        Jiang et al. (2024), arXiv 2410.02762: the model's internal confidence that the image
        holds the object.
        """
        return self.probability.max((1, 2))


@with_provenance
def image_lens(
    lmm: LMM,
    image: ImageInput,
    prompt: str,
    *,
    layers: Layers = ":",
    top_k: int = 5,
    graph: Graphlike = None,
    tick: Tick | None = None,
) -> ImageLens:
    """The most likely words of each patch of an image after each layer.

    ```python
    lens = ex.image_lens(lmm, image, "describe the image", layers=[2, 5])
    lens.count(5)                                             # words, and for how many patches
    ```

    **Arguments:**

    - `layers`: the layers.
    - `top_k`: the number of words per patch.
    - `graph`: edits that act during the run.
    - `tick`: called in the place of a progress bar, after every pass of the model.
    """
    probe = LogitLens("image", layers, top_k=top_k)
    pixels, run = _run(lmm, image, prompt, as_graph(graph) | probe, tick)
    span, whole = run.layout.images[0][0], list(run.layout.images[0][0].tokens_of())
    record, said = run.of(probe, "image[0]"), run.of(run[probe, "word"], "image[0]")
    words = tuple(
        tuple(tuple(word.strip() for word in patch) for patch in layer)
        for layer in said.words[:, 0, whole].tolist()
    )
    probability = record.values[:, 0, whole].numpy()
    return ImageLens(pixels, span, record.labels("layer"), words, probability)


@with_provenance
def word_lens(
    lmm: LMM,
    image: ImageInput,
    prompt: str,
    words: Sequence[str],
    *,
    layers: Layers = ":",
    graph: Graphlike = None,
    tick: Tick | None = None,
) -> WordLens:
    """The probability of given words at each patch after each layer.

    ```python
    ex.word_lens(lmm, image, "describe the image", ["red", "circle"], layers="3:5").confidence
    ```

    **Arguments:**

    - `words`: each one token of the model.
    - `tick`: called in the place of a progress bar, after every pass of the model.

    **Raises:** `InputError` for a word of several tokens, or none that the tokenizer knows.
    """
    if isinstance(words, str):
        raise InputError(f"words is a list: words=[{words!r}]")
    probe = TokenProbability("image", layers, tokens=tuple(words))
    pixels, run = _run(lmm, image, prompt, as_graph(graph) | probe, tick)
    record = run.of(probe, "image[0]")
    values = record.values[:, 0, list(run.layout.images[0][0].tokens_of())]
    return WordLens(
        pixels,
        run.layout.images[0][0],
        record.labels("layer"),
        tuple(words),
        values.permute(2, 0, 1).numpy(),
    )


def _run(
    lmm: LMM, image: ImageInput, prompt: str, graph: Graphlike, tick: Tick | None
) -> tuple[Image, Run]:
    encoding = lmm.encode(image, prompt)
    run = lmm.run(encoding, graph=graph)
    shown(tick, "passes")(1, 1)
    return encoding.images[0][0], run
