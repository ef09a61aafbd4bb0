"""Compressed context: a prompt's text and the image tokens that mattered most, asked again.

Kaduri et al. (2025), arXiv 2411.17491: describe the image, keep in every block the image tokens
that the description looked at most, and answer new questions from what is left.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Protocol, final, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .encoding import Encoding
from .errors import InputError, NotationError, unknown
from .graph import Graphlike, Probe
from .past import Past
from .probes import AttentionMaps, Contribution, SinkValue
from .results import Recorded, Run
from .tokens import CODE, PAD, TokenLayout

SCORES = ("attention", "attention-without-sinks", "contribution", "random")
STRATEGIES = ("qs", "q", "s")
_ROWS = "query generated"
_MAPS, _ADDED, _PHI = AttentionMaps(_ROWS), Contribution(_ROWS), SinkValue("image")


@final
@dataclass(frozen=True)
class CompressedContext:
    """What is kept of a prompt once its picture has been described.

    In every block by itself, image token j is scored by the mean of A[t, j] over heads and over the
    generated tokens t (the rows that predict them), and the `int(keep * n_image)` best stay.

    **Arguments:**

    - `keep`: the share of the image tokens that stay, above 0 and up to 1. The paper's table has
        0.05 and 0.02.
    - `score`: `"attention"`, as in the paper; `"attention-without-sinks"`, where visual sinks (Kang
        et al. 2025) are never kept, so that a block may keep fewer; `"contribution"`, the norm of
        A[t, j] x_j W_OV in place of A[t, j]; `"random"`, the control, drawn anew in every block.
    - `strategy`: `"qs"` keeps the prompt's other tokens and the best image tokens, `"q"` the other
        tokens alone, `"s"` the best image tokens alone.
    - `seed`: of the random choice.

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
        """What must be recorded while the picture is described."""
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
        self, run: Run, n_layers: int, tau: float | None
    ) -> Float[Tensor, "layer image_token"]:
        """The score of every image token in every block; minus infinity for one never kept.

        **Arguments:**

        - `run`: the description, with the records of `probes`.
        - `tau`: the least sink value of a sink, where sinks are left out.
        """
        image = run.tokens.mask("image")[0].nonzero().flatten()
        if self.score == "random":
            draws = [torch.Generator().manual_seed(1000 * self.seed + i) for i in range(n_layers)]
            return torch.stack([torch.rand(len(image), generator=draw) for draw in draws])
        if self.score == "contribution":
            return _answer_mean(run, _ADDED)[:, image]
        found = _answer_mean(run, _MAPS)
        if self.needs_sinks:
            assert tau is not None  # noqa: S101 (needs_sinks says so)
            record = _last(run, _PHI)
            rows = [record.labels("query").index(int(place)) for place in image]
            found = found.masked_fill(record.values[:, 0, rows] >= tau, -torch.inf)
        return found

    def choose(
        self, run: Run, n_layers: int, tau: float | None = None
    ) -> Bool[Tensor, "layer token"]:
        """The prompt tokens that every block keeps.

        **Raises:** `InputError` if the share is less than one image token.
        """
        length = run.tokens.prompt_length
        image = run.tokens.mask("image")[0, :length]
        text = run.tokens.mask("prompt")[0, :length] & ~image
        kept = (text & torch.tensor("q" in self.strategy)).repeat(n_layers, 1)
        if "s" in self.strategy:
            count = int(self.keep * int(image.sum()))
            if count == 0:
                raise InputError(
                    f"{self!r} keeps less than one of {int(image.sum())} image tokens; keep more, "
                    "or say strategy='q'"
                )
            found = self.scores(run, n_layers, tau)
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
    rows = [record.labels("query").index(row) for row in run.answer_rows]
    return record.values[:, 0, rows].float().mean(1)


@final
@dataclass(frozen=True)
class TokenCounts:
    """How many tokens a context holds; a question's own come on top.

    **Attributes:**

    - `query`, `n_query`: kept prompt tokens beside the image, and how many there were.
    - `image`, `n_image`: kept image tokens of each block, and how many there were.
    - `distinct`: the image tokens that at least one block kept.
    """

    query: int
    n_query: int
    image: tuple[int, ...]
    n_image: int
    distinct: int

    @property
    def per_layer(self) -> tuple[int, ...]:
        """Tokens in the cache of each block."""
        return tuple(self.query + count for count in self.image)

    @property
    def total(self) -> float:
        """Tokens of the context as Kaduri et al. count them, query + kept: the mean over blocks."""
        return sum(self.per_layer) / len(self.per_layer)

    @property
    def full(self) -> int:
        """Tokens of the whole prompt."""
        return self.n_query + self.n_image

    def __str__(self) -> str:
        """As in `query 12 + image 3 of 64 = 15 tokens of 76 (5.1x fewer)`."""
        low, high = min(self.image), max(self.image)
        image = f"{low}" if low == high else f"{low} to {high}"
        return (
            f"query {self.query} + image {image} of {self.n_image} = {self.total:g} tokens of "
            f"{self.full} ({self.full / self.total:.1f}x fewer)"
        )


@runtime_checkable
class Generates(Protocol):
    """What asking needs of a model: an answer to an encoded prompt."""

    def generate(
        self,
        image: Any,
        prompt: Any = None,
        graph: Graphlike = None,
        *,
        max_new_tokens: int = 128,
        **hf_kwargs: Any,
    ) -> Run:
        """Generate an answer under a graph."""
        ...


@final
@dataclass(frozen=True, eq=False)
class Context:
    """What was kept of a described picture; `ask` it as many questions as you like.

    **Attributes:**

    - `spec`: how it was chosen.
    - `run`: the description.
    - `past`: keys and values of the kept tokens, block by block, at their original positions.
    - `encoding`: the prompt that led to the description.
    - `marker`: what follows a question, as in `" ASSISTANT:"`.
    - `lmm`, `tokenizer`: what answers, and its tokenizer.
    """

    spec: CompressedContext
    run: Run
    past: Past
    encoding: Encoding
    marker: str
    lmm: Generates
    tokenizer: Any

    @property
    def kept(self) -> Bool[Tensor, "layer token"]:
        """The prompt tokens that every block kept."""
        return self.past.kept

    @property
    def kept_patches(self) -> Bool[Tensor, "layer patch"]:
        """The image tokens that every block kept, in raster order."""
        return self.kept[:, self.encoding.tokens.mask("image")[0]]

    @property
    def tokens_kept(self) -> TokenCounts:
        """How many tokens it holds."""
        tokens, patches = self.encoding.tokens, self.kept_patches
        text = tokens.mask("prompt & ~image")[0]
        return TokenCounts(
            int((self.kept[0] & text).sum()),
            int(text.sum()),
            tuple(patches.sum(-1).tolist()),
            patches.shape[1],
            int(patches.any(0).sum()),
        )

    def __repr__(self) -> str:
        return f"Context({self.spec!r}: {self.tokens_kept})"

    def ask(
        self,
        question: str | Sequence[str],
        graph: Graphlike = None,
        *,
        max_new_tokens: int = 25,
        chat: bool = True,
        bos: bool = False,
        **hf_kwargs: Any,
    ) -> Run:
        """Answer a question, or several as one batch, from what was kept; greedy.

        The question and the marker of the answer's role follow the kept prompt, at the position
        after its last one. What the picture's description said is not part of it.

        **Arguments:**

        - `question`, `chat`, `bos`: as `encode` takes them.
        - `graph`: edits and probes that need no sinks; keys that were not kept have pattern 0.
        - `max_new_tokens`: the longest answer; 25 in the released code.
        - `hf_kwargs`: for `model.generate`.

        **Returns:** a `Run` whose tokens are the prompt, the question and the answer.

        **Raises:** as `LMM.generate`; `InputError` for an empty question.
        """
        encoding = self.encode(question, chat=chat, bos=bos)
        return self.lmm.generate(encoding, None, graph, max_new_tokens=max_new_tokens, **hf_kwargs)

    def encode(
        self, question: str | Sequence[str], *, chat: bool = True, bos: bool = False
    ) -> Encoding:
        """A question as the model takes it, after the prompt that was read before.

        **Arguments:**

        - `question`: one, or several for a batch.
        - `chat`: False leaves the answer's role marker out.
        - `bos`: begin with the tokenizer's BOS token once more, as the released code does.

        **Raises:** `InputError` for an empty question.
        """
        questions = [question] if isinstance(question, str) else list(question)
        if not questions or not all(isinstance(q, str) and q.strip() for q in questions):
            raise InputError("ask a question, or a list of them; none may be empty")
        texts = [q.strip() + (self.marker if chat else "") for q in questions]
        made = [self.tokenizer(text, add_special_tokens=bos, return_offsets_mapping=True)
                for text in texts]  # fmt: skip
        starts = [len(q.strip()) for q in questions]
        width = max(len(one["input_ids"]) for one in made)
        parts = [self._part(one, start, width) for one, start in zip(made, starts, strict=True)]
        ids, mask, segments, roles = (torch.stack(part) for part in zip(*parts, strict=True))
        return self._after(ids, mask, self._layout(segments, roles), tuple(texts), question)

    def _part(self, made: Any, marker: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Ids, attention mask, segments and roles of one question, padded on the left."""
        ids = made["input_ids"]
        first = [CODE["bos"] if i == self.tokenizer.bos_token_id else CODE["query"] for i in ids]
        roles = [end > marker for _, end in made["offset_mapping"]]
        pad = self.tokenizer.pad_token_id or 0
        rows = ((ids, pad), ([1] * len(ids), 0), (first, PAD), (roles, False))
        ids_, mask, segments, role = (
            torch.tensor([fill] * (width - len(row)) + list(row)) for row, fill in rows
        )
        return ids_, mask, segments, role

    def _layout(
        self, segments: Int[Tensor, "batch new"], roles: Bool[Tensor, "batch new"]
    ) -> TokenLayout:
        """What every token is; an image or a text that left altogether counts as padding."""
        known, batch = self.encoding.tokens, len(segments)
        parts = (known.mask("image")[0], known.mask("prompt & ~image")[0])
        gone = torch.stack([part & ~(self.kept & part).any() for part in parts]).any(0)
        before = known.segments.masked_fill(gone, PAD).expand(batch, -1)
        index = known.image_index.masked_fill(gone, -1).expand(batch, -1)
        return TokenLayout(
            torch.cat([before, segments], 1),
            torch.cat([index, torch.full_like(segments, -1)], 1),
            torch.cat([(known.roles & ~gone).expand(batch, -1), roles], 1),
            known.images * batch,
            known.length + segments.shape[1],
        )

    def _after(
        self,
        ids: Int[Tensor, "batch new"],
        mask: Int[Tensor, "batch new"],
        layout: TokenLayout,
        texts: tuple[str, ...],
        question: str | Sequence[str],
    ) -> Encoding:
        known = self.encoding.inputs
        device = known["input_ids"].device
        before = known["input_ids"].expand(len(ids), -1)
        inputs = {
            "input_ids": torch.cat([before, ids.to(device)], 1),
            "attention_mask": torch.cat([torch.ones_like(before), mask.to(device)], 1),
        }
        return replace(
            self.encoding,
            inputs=inputs,
            tokens=layout,
            pictures=((),) * len(ids),
            prompts=tuple(self.encoding.prompts[0] + text for text in texts),
            batched=not isinstance(question, str),
            past=self.past,
        )
