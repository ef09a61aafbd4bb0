"""The logit lens: the words that the model would predict if it ended at a layer.

nostalgebraist (2020), *interpreting GPT: the logit lens*; on image tokens Neo et al. (2024), arXiv
2410.07149, and Jiang et al. (2024), arXiv 2410.02762.
"""

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from ..errors import NotationError
from ..graph import Site, TokenOf, freeze
from ..results import FIELDS
from .row_probe import RowProbe

CHUNK = 64
"""How many rows of logits over the vocabulary are held at once."""
STREAMS = ("pre", "mid", "post")


@dataclass(frozen=True)
class Lens(RowProbe):
    """A probe that reads residual vectors as words: final norm, unembedding, softmax.

    The norm uses the vector's own statistics, as after the model's last layer, and its learned
    gain; a cap on the logits is applied too. At the last layer the result is the model's own
    prediction.

    **Arguments:**

    - `rows`: the tokens whose vectors are read; image tokens by default.
    - `at`: the residual stream `"pre"` (entering the layer), `"mid"` or `"post"` (leaving it).
    """

    rows: str = "image"
    _: KW_ONLY
    at: Literal["pre", "mid", "post"] = "post"

    def __post_init__(self) -> None:
        RowProbe.__post_init__(self)
        if self.at not in STREAMS:
            raise NotationError(f"at={self.at!r} is not one of: {', '.join(STREAMS)}")

    @property
    def hook(self) -> str:
        """The hook point that `at` stands for."""
        return f"hook_resid_{self.at}"

    @property
    @override
    def needs_unembed(self) -> bool:
        return True

    def _read(
        self, resid: Tensor, site: Site, keep: Callable[[Float[Tensor, "row vocab"]], Tensor]
    ) -> Tensor:
        """Apply `keep` to the probabilities, a few rows at a time."""
        parts = [keep(p) for p in _probabilities(resid.flatten(0, 1), site.extras["unembed"])]
        return torch.cat(parts).unflatten(0, resid.shape[:2])


def _probabilities(
    rows: Float[Tensor, "row d_model"], unembed: Callable[[Tensor], Tensor]
) -> Iterator[Float[Tensor, "row vocab"]]:
    for part in rows.split(CHUNK):
        yield unembed(part[None])[0].float().softmax(-1)


@final
@dataclass(frozen=True)
class LogitLens(Lens):
    """The most likely words of each token at each layer: two records `[layer batch query rank]`.

    `run[lens]` holds probabilities, 0 to 1; `run[lens, "word"]` the ids of the words, whose
    `words` are their texts. Probabilities of the whole vocabulary are never stored.
    `experiments.image_lens` turns both into words over the image's grid.

    ```python
    lens = vi.probes.LogitLens("image", layers=5, top_k=3)
    run = lmm.run(image, "What is this?", lens)
    run[lens, "word"].at(layer=5).words[0]                   # by image token and rank
    run[lens].at(layer=5).values[0]                          # their probabilities
    ```

    **Arguments:**

    - `top_k`: the number of words.
    """

    axes: ClassVar[tuple[str, ...]] = ("batch", "query", "rank", "field")
    labels: ClassVar[dict[str, tuple[str, ...]]] = {"field": FIELDS}

    _: KW_ONLY
    top_k: int = 5

    def __post_init__(self) -> None:
        Lens.__post_init__(self)
        if type(self.top_k) is not int or self.top_k < 1:
            raise NotationError(f"top_k={self.top_k!r}: a whole number, at least one word")

    @override
    def measure(self, value: Tensor, site: Site) -> Tensor:
        return self._read(value, site, self._top)

    def _top(self, probability: Float[Tensor, "row vocab"]) -> Float[Tensor, "row rank field"]:
        if self.top_k > probability.shape[-1]:
            raise NotationError(f"top_k={self.top_k}: there are {probability.shape[-1]} words")
        found = probability.topk(self.top_k, -1)
        return torch.stack([found.indices.float(), found.values], -1)


@final
@dataclass(frozen=True)
class TokenProbability(Lens):
    """The probability of given words at each token and layer: `[layer batch query word]`.

    Jiang et al. (2024) use its largest value over image tokens and layers as the model's internal
    confidence that an object is in the image.

    ```python
    red = vi.probes.TokenProbability("image", layers=5, tokens=("red", "blue"))
    run = lmm.run(image, "What is this?", red)
    run[red].sel(layer=5, word="red").values
    ```

    **Arguments:**

    - `tokens`: the words, each one token of the model, or their ids.

    **Raises:** `NotationError` for what is neither; when run, `InputError` for a word that is
    several tokens, or none that the tokenizer knows.
    """

    axes: ClassVar[tuple[str, ...]] = ("batch", "query", "word")

    _: KW_ONLY
    tokens: tuple[str | int, ...]
    ids: tuple[int, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        Lens.__post_init__(self)
        freeze(self, "tokens")
        listed = isinstance(self.tokens, tuple) and self.tokens
        if not listed or not all(map(_is_word, self.tokens)):
            raise NotationError(
                f"tokens={self.tokens!r}: a tuple of words, as in ('cup', 'table'), or of their "
                "ids, from 0 on"
            )

    @property
    def labels(self) -> dict[str, tuple[str | int, ...]]:
        """The words along the axis `word`, as they were given."""
        return {"word": self.tokens}

    @override
    def worded(self, token: TokenOf) -> "TokenProbability":
        given = [word for word in self.tokens if isinstance(word, str)]
        known = {word: token(word) for word in given}
        ids = tuple(known[one] if isinstance(one, str) else one for one in self.tokens)
        return replace(self, ids=ids)

    @override
    def measure(self, value: Tensor, site: Site) -> Tensor:
        return self._read(value, site, self._of_tokens)

    def _of_tokens(self, probability: Float[Tensor, "row vocab"]) -> Float[Tensor, "row token"]:
        if max(self.ids) >= probability.shape[-1]:
            raise NotationError(f"tokens={self.tokens}: there are {probability.shape[-1]} words")
        return probability[:, list(self.ids)]


def _is_word(given: object) -> bool:
    return (type(given) is int and given >= 0) or (isinstance(given, str) and bool(given.strip()))
