"""`CompressedContext`: choose the prompt tokens that stay in the KV cache after a description.

Kaduri et al. (2025), arXiv 2411.17491: describe the image, keep in every layer the prompt's text
and the image tokens that the description attended to most, and answer new questions from these.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from PIL.Image import Image
from torch import Tensor

from ..errors import InputError, NotationError, unknown
from ..graph import Probe
from ..probes import AttentionMaps, Contribution, Resid, SinkValue
from ..results import Run
from .images import digest

SCORES = (
    "attention", "attention-without-sinks", "contribution", "query-attention", "norm", "random",
)  # fmt: skip
STRATEGIES = ("qs", "q", "s")
_ROWS = "query generated"
_MAPS, _ADDED, _PHI = AttentionMaps(_ROWS), Contribution(_ROWS), SinkValue("image")
_RESID = Resid("image", at="pre")


@final
@dataclass(frozen=True)
class CompressedContext:
    """Which prompt tokens stay in the cache once the image has been described.

    In each layer separately, image token j is scored by the mean of A[t, j] over heads and over the
    generated tokens t (the rows that predict them), and the `int(keep * n_image)` best stay.

    ```python
    few = vi.CompressedContext(keep=0.1)
    context = lmm.compress(image, "describe the image", few, max_new_tokens=8)
    context.ask("is there a red circle?", max_new_tokens=2).text
    ```

    **Arguments:**

    - `keep`: the share of image tokens that stay, above 0 and up to 1. The paper's table has 0.05
        and 0.02.
    - `score`: `"attention"`, as in the paper; `"attention-without-sinks"`, where visual sinks (Kang
        et al. 2025) are never kept, so that a layer may keep fewer; `"contribution"`, the norm of
        A[t, j] x_j W_OV instead of A[t, j]; `"query-attention"`, A[t, j] of the prompt's last
        row alone, and `"norm"`, the norm of the residual stream entering the layer, two choices of
        the paper's released code; `"random"`, the control, drawn anew for every image and layer.
    - `strategy`: `"qs"` keeps the prompt's other tokens and the best image tokens, `"q"` only the
        other tokens, `"s"` only the best image tokens.
    - `count`: the number of image tokens that stay, in the place of the share.
    - `seed`: of the random choice, which is the same for the same images.

    **Raises:** `NotationError` for an unknown word, a share out of range, or an argument that
    has no effect under this strategy or score.
    """

    keep: float = 0.05
    score: str = "attention"
    _: KW_ONLY
    strategy: str = "qs"
    count: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise NotationError(unknown("score of image tokens", self.score, SCORES))
        if self.strategy not in STRATEGIES:
            raise NotationError(unknown("strategy", self.strategy, STRATEGIES))
        if not 0 < self.keep <= 1:
            raise NotationError(f"keep is a share above 0 and up to 1; got {self.keep}")
        if self.count is not None and (self.count < 1 or self.keep != 0.05):
            raise NotationError(
                f"count={self.count} is a number of image tokens from 1 on, in the place of keep"
            )
        chosen = self.keep, self.score, self.count
        if self.strategy == "q" and chosen != (0.05, "attention", None):
            raise NotationError(
                "strategy='q' keeps no image token: leave keep, count and score alone"
            )
        if self.seed and (self.score != "random" or self.strategy == "q"):
            raise NotationError("a seed belongs to score='random'")

    @property
    def probes(self) -> tuple[Probe, ...]:
        """The probes that the description must record."""
        if self.strategy == "q" or self.score == "random":
            return ()
        if self.score in ("contribution", "norm"):
            return (_ADDED if self.score == "contribution" else _RESID,)
        return (_MAPS, _PHI) if self.needs_sinks else (_MAPS,)

    @property
    def needs_sinks(self) -> bool:
        """Whether the model's sinks must be known."""
        return self.score == "attention-without-sinks"

    def scores(
        self, run: Run, images: Sequence[Image], n_layers: int, tau: float | None
    ) -> Float[Tensor, "layer image_token"]:
        """The score of every image token in every layer; minus infinity for tokens never kept.

        **Arguments:**

        - `run`: the run of the description, with the records of `probes`.
        - `images`: the described images, on which a random choice depends.
        - `tau`: the lowest phi of a sink, if sinks are left out.
        """
        if self.score == "random":
            draw = torch.Generator().manual_seed(int(digest([(images, self.seed)])[:14], 16))
            return torch.rand(n_layers, int(run.layout.mask("image")[0].sum()), generator=draw)
        if self.score == "contribution":
            return _answer_mean(run, _ADDED)
        if self.score == "norm":
            return run.of(_last(run, _RESID), "image").values[:, 0].float().norm(dim=-1)
        if self.score == "query-attention":
            record = run.answering(_last(run, _MAPS)).taken("query", run.answer_rows[:1])
            return run.of(record, "image").mean("query").values[:, 0]
        found = _answer_mean(run, _MAPS)
        if self.needs_sinks:
            assert tau is not None  # noqa: S101 (needs_sinks says so)
            phi = run.of(_last(run, _PHI), "image").values[:, 0]
            found = found.masked_fill(phi >= tau, -torch.inf)
        return found

    def choose(
        self, run: Run, images: Sequence[Image], n_layers: int, tau: float | None = None
    ) -> Bool[Tensor, "layer token"]:
        """The prompt tokens that each layer keeps.

        **Raises:** `InputError` if the share is less than one image token.
        """
        length = run.layout.prompt_length
        image = run.layout.mask("image")[0, :length]
        text = run.layout.mask("prompt")[0, :length] & ~image
        kept = (text & torch.tensor("q" in self.strategy)).repeat(n_layers, 1)
        if "s" in self.strategy:
            count = self._count(int(image.sum()))
            if count == 0:
                raise InputError(
                    f"{self!r} keeps less than one of {int(image.sum())} image tokens; keep more, "
                    "or say strategy='q'"
                )
            found = self.scores(run, images, n_layers, tau)
            rank = found.argsort(stable=True, dim=-1, descending=True).argsort(-1)
            kept[:, image] = (rank < count) & found.isfinite()
        return kept

    def _count(self, n_image: int) -> int:
        """How many image tokens stay.

        **Raises:** `InputError` if there are fewer.
        """
        if self.count is not None and self.count > n_image:
            raise InputError(f"{self!r} keeps {self.count} of {n_image} image tokens; keep fewer")
        return int(self.keep * n_image) if self.count is None else self.count


def _last(run: Run, probe: Probe) -> str:
    """The name of the record of a probe that stands last in its graph, should it be there twice."""
    return [key for key in run.records if key.split("#")[0] == repr(probe)][-1]


def _answer_mean(run: Run, probe: Probe) -> Float[Tensor, "layer image_token"]:
    """The mean of a record over the rows that predict the answer, at every image token."""
    return run.of(run.answering(_last(run, probe)), "image").mean("query").values[:, 0]
