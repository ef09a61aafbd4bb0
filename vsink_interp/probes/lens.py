"""The logit lens: what the model would say of a token if it stopped at a layer.

nostalgebraist (2020), *interpreting GPT: the logit lens*; on image tokens Neo et al. (2024), arXiv
2410.07149, and Jiang et al. (2024), arXiv 2410.02762.
"""

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from ..errors import NotationError
from ..graph import Site, freeze
from .row_probe import RowProbe

CHUNK = 64
"""How many rows are held as logits over the vocabulary at once."""
STREAMS = ("pre", "mid", "post")


@dataclass(frozen=True)
class Lens(RowProbe):
    """A probe that reads residual vectors as words: final norm, unembedding, softmax.

    The norm's statistics are those of the vector that is read, as in the model's last layer, and
    its learned gain is applied; a cap on the logits too. At the last layer the words are the
    model's own prediction.

    **Arguments:**

    - `rows`: the tokens whose vectors are read; the image's by default.
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
        """The hook point that `at` names."""
        return f"hook_resid_{self.at}"

    @property
    @override
    def needs_unembed(self) -> bool:
        return True

    def _read(
        self, resid: Tensor, site: Site, keep: Callable[[Float[Tensor, "row vocab"]], Tensor]
    ) -> Tensor:
        """What `keep` makes of the probabilities, a few rows at a time."""
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
    """The likeliest words of each token at each layer: `[layer batch query rank field]`.

    Along `field` lie the token's id and its probability, 0 to 1; the ids are whole numbers, exact
    in fp32. The probabilities of the whole vocabulary are never kept. `experiments.image_lens`
    turns them into words over the grid.

    **Arguments:**

    - `top_k`: how many words.
    """

    axes: ClassVar[tuple[str, ...]] = ("batch", "query", "rank", "field")
    labels: ClassVar[dict[str, tuple[str, ...]]] = {"field": ("token", "probability")}

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
    """The probability of given words at each token and layer: `[layer batch query token]`.

    Jiang et al. (2024) take its largest value over image tokens and layers as the model's internal
    confidence that an object is there.

    **Arguments:**

    - `tokens`: ids of words.
    """

    axes: ClassVar[tuple[str, ...]] = ("batch", "query", "token")

    _: KW_ONLY
    tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        Lens.__post_init__(self)
        freeze(self, "tokens")
        listed = isinstance(self.tokens, tuple) and self.tokens
        if not listed or not all(type(id_) is int and id_ >= 0 for id_ in self.tokens):
            raise NotationError(
                f"tokens={self.tokens!r}: a tuple of ids of words, from 0 on; readout(lmm).token "
                "gives the id of a word"
            )

    @property
    def labels(self) -> dict[str, tuple[int, ...]]:
        """The ids along the axis `token`."""
        return {"token": self.tokens}

    @override
    def measure(self, value: Tensor, site: Site) -> Tensor:
        return self._read(value, site, self._of_tokens)

    def _of_tokens(self, probability: Float[Tensor, "row vocab"]) -> Float[Tensor, "row token"]:
        if max(self.tokens) >= probability.shape[-1]:
            raise NotationError(f"tokens={self.tokens}: there are {probability.shape[-1]} words")
        return probability[:, list(self.tokens)]
