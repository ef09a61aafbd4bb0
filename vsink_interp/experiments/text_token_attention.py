"""The attention of an answer to each text token of its prompt."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float

from ..graph import Layers
from ..model import LMM, ImageInput, Tick
from ..model.progress import shown
from ..probes import Pattern
from ..results.result import Result
from .depth import chosen_layers, middle_layers
from .provenance import with_provenance


@final
@dataclass(frozen=True, eq=False, repr=False)
class TokenStrengths(Result):
    """The text tokens of a prompt, and the attention that an answer gives to each.

    **Attributes:**

    - `words`: the tokens.
    - `attention`: attention from the rows that predict the answer, 0 to 1: mean over heads, rows
        and layers.
    - `image`: the same for all image tokens together.
    - `layers`: the layers.
    """

    figure: ClassVar[str] = "token_strengths"
    axis_labels: ClassVar[Mapping[str, str]] = {"token": "numbered"}

    words: tuple[str, ...]
    attention: Float[np.ndarray, " token"]
    image: float
    layers: tuple[int, ...]

    @property
    def numbered(self) -> tuple[str, ...]:
        """The tokens with their places, which tell equal ones apart."""
        return tuple(f"{i}: {word}" for i, word in enumerate(self.words))


@with_provenance
def token_strengths(
    lmm: LMM,
    image: ImageInput,
    prompt: str,
    *,
    layers: Layers | None = None,
    max_new_tokens: int = 40,
    tick: Tick | None = None,
) -> TokenStrengths:
    """The attention of an answer to the text of its prompt.

    ```python
    found = ex.token_strengths(lmm, image, prompt, max_new_tokens=3)
    list(zip(found.words, found.attention))
    ```

    **Arguments:**

    - `layers`: the layers; the middle ones that have a pattern by default.
    - `tick`: called in the place of a progress bar, after the answer.
    """
    at = chosen_layers(lmm, layers, middle_layers(lmm.n_layers))
    probe = Pattern(layers=at)
    run = lmm.generate(image, prompt, probe, max_new_tokens=max_new_tokens)
    shown(tick, "answers")(1, 1)
    received = run.answering(probe).values[:, 0].float().mean((0, 1, 2))
    text = run.layout.mask("prompt & ~image")[0].nonzero().flatten().tolist()
    return TokenStrengths(
        tuple(run.words[0][i] for i in text),
        received[text].numpy(),
        float(received[run.layout.mask("image")[0][: len(received)]].sum()),
        at,
    )
