"""Compressed context: what stays of a prompt, its text and the image tokens that mattered most.

Kaduri et al. (2025), arXiv 2411.17491: describe the image, keep in every layer the image tokens
that the description looked at most, and answer new questions from what is left.
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
from ..probes import AttentionMaps, Contribution, SinkValue
from ..results import Recorded, Run
from .images import digest

SCORES = ("attention", "attention-without-sinks", "contribution", "random")
STRATEGIES = ("qs", "q", "s")
_ROWS = "query generated"
_MAPS, _ADDED, _PHI = AttentionMaps(_ROWS), Contribution(_ROWS), SinkValue("image")


@final
@dataclass(frozen=True)
class CompressedContext:
    """What is kept of a prompt once its image has been described.

    In every layer by itself, image token j is scored by the mean of A[t, j] over heads and over the
    generated tokens t (the rows that predict them), and the `int(keep * n_image)` best stay.

    **Arguments:**

    - `keep`: the share of the image tokens that stay, above 0 and up to 1. The paper's table has
        0.05 and 0.02.
    - `score`: `"attention"`, as in the paper; `"attention-without-sinks"`, where visual sinks (Kang
        et al. 2025) are never kept, so that a layer may keep fewer; `"contribution"`, the norm of
        A[t, j] x_j W_OV in place of A[t, j]; `"random"`, the control, drawn anew for every
        image and layer.
    - `strategy`: `"qs"` keeps the prompt's other tokens and the best image tokens, `"q"` the other
        tokens alone, `"s"` the best image tokens alone.
    - `seed`: of the random choice; with the same images it draws the same.

    **Raises:** `NotationError` for an unknown word, a share out of range, or an argument that the
    strategy or score leaves without effect.
    """

    keep: float = 0.05
    score: str = "attention"
    _: KW_ONLY
    strategy: str = "qs"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise NotationError(unknown("score of image tokens", self.score, SCORES))
        if self.strategy not in STRATEGIES:
            raise NotationError(unknown("strategy", self.strategy, STRATEGIES))
        if not 0 < self.keep <= 1:
            raise NotationError(f"keep is a share above 0 and up to 1; got {self.keep}")
        if self.strategy == "q" and (self.keep, self.score) != (0.05, "attention"):
            raise NotationError("strategy='q' keeps no image token: leave keep and score alone")
        if self.seed and (self.score != "random" or self.strategy == "q"):
            raise NotationError("a seed belongs to score='random'")

    @property
    def probes(self) -> tuple[Probe, ...]:
        """What must be recorded while the image is described."""
        if self.strategy == "q" or self.score == "random":
            return ()
        if self.score == "contribution":
            return (_ADDED,)
        return (_MAPS, _PHI) if self.needs_sinks else (_MAPS,)

    @property
    def needs_sinks(self) -> bool:
        """Whether the model's sinks must be known."""
        return self.score == "attention-without-sinks"

    def scores(
        self, run: Run, images: Sequence[Image], n_layers: int, tau: float | None
    ) -> Float[Tensor, "layer image_token"]:
        """The score of every image token in every layer; minus infinity for one never kept.

        **Arguments:**

        - `run`: the description, with the records of `probes`.
        - `images`: what was described; a random choice depends on them.
        - `tau`: the least sink value of a sink, where sinks are left out.
        """
        image = run.layout.mask("image")[0].nonzero().flatten()
        if self.score == "random":
            draw = torch.Generator().manual_seed(int(digest([(images, self.seed)])[:14], 16))
            return torch.rand(n_layers, len(image), generator=draw)
        if self.score == "contribution":
            return _answer_mean(run, _ADDED)[:, image]
        found = _answer_mean(run, _MAPS)
        if self.needs_sinks:
            assert tau is not None  # noqa: S101 (needs_sinks says so)
            record = _last(run, _PHI)
            rows = record.places("query", image.tolist())
            found = found.masked_fill(record.values[:, 0, rows] >= tau, -torch.inf)
        return found

    def choose(
        self, run: Run, images: Sequence[Image], n_layers: int, tau: float | None = None
    ) -> Bool[Tensor, "layer token"]:
        """The prompt tokens that every layer keeps.

        **Raises:** `InputError` if the share is less than one image token.
        """
        length = run.layout.prompt_length
        image = run.layout.mask("image")[0, :length]
        text = run.layout.mask("prompt")[0, :length] & ~image
        kept = (text & torch.tensor("q" in self.strategy)).repeat(n_layers, 1)
        if "s" in self.strategy:
            count = int(self.keep * int(image.sum()))
            if count == 0:
                raise InputError(
                    f"{self!r} keeps less than one of {int(image.sum())} image tokens; keep more, "
                    "or say strategy='q'"
                )
            found = self.scores(run, images, n_layers, tau)
            rank = found.argsort(stable=True, dim=-1, descending=True).argsort(-1)
            kept[:, image] = (rank < count) & found.isfinite()
        return kept


def _last(run: Run, probe: Probe) -> Recorded:
    """The record of a probe that stands last in its graph, should the graph hold it twice."""
    name = repr(probe)
    return [record for key, record in run.records.items() if key.split("#")[0] == name][-1]


def _answer_mean(run: Run, probe: Probe) -> Float[Tensor, "layer _"]:
    """The mean of a record over the rows that predict the answer."""
    record = _last(run, probe)
    rows = record.places("query", run.answer_rows)
    return record.values[:, 0, rows].float().mean(1)
