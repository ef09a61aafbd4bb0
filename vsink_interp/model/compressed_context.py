"""`Context`: a shortened KV cache of a described image, and answers to new questions from it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, final, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..engine import HookedModel, execute, prefix_of, refuse_prefix, turns_of
from ..engine.cached_prefix import CACHE_ARGUMENT, CachedPrefix
from ..errors import CapabilityError, InputError
from ..graph import CacheEdit, EditGraph, Graphlike
from ..results import Run
from ..tokens import CODE, PAD, TokenLayout
from .compression import CompressedContext
from .encoding import Encoding
from .execution import Executor, RunRequest, with_outcome
from .rendering import answer_marker


@final
@dataclass(frozen=True)
class TokenCounts:
    """The number of tokens in a context, not counting those of a question.

    **Attributes:**

    - `query`, `n_query`: kept prompt tokens other than image tokens, and the number before.
    - `image`, `n_image`: kept image tokens of each layer, and the number before.
    - `distinct`: the number of image tokens that at least one layer kept.
    """

    query: int
    n_query: int
    image: tuple[int, ...]
    n_image: int
    distinct: int

    @property
    def per_layer(self) -> tuple[int, ...]:
        """The number of tokens in the cache of each layer."""
        return tuple(self.query + count for count in self.image)

    @property
    def total(self) -> float:
        """The size of the context as Kaduri et al. count it, query + kept: the mean over layers."""
        return sum(self.per_layer) / len(self.per_layer)

    @property
    def full(self) -> int:
        """The number of tokens of the whole prompt."""
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
    """What `Context.ask` needs of a model: `generate` for an encoded prompt."""

    def generate(
        self,
        image: Any,
        prompt: Any = None,
        graph: Graphlike = None,
        *,
        max_new_tokens: int | None = None,
        **hf_kwargs: Any,
    ) -> Run:
        """Generate an answer under a graph."""
        ...


@final
@dataclass(frozen=True, eq=False)
class Context:
    """The shortened cache of a described image; `ask` it any number of questions.

    **Attributes:**

    - `spec`: how its tokens were chosen.
    - `run`: the run that described the image.
    - `cached_prefix`: keys and values of the kept tokens, layer by layer, at their original
        positions.
    - `encoding`: the prompt of the description.
    - `marker`: the text after a question, as in `" ASSISTANT:"`.
    - `lmm`, `tokenizer`: the model that answers, and its tokenizer.
    """

    spec: CompressedContext
    run: Run
    cached_prefix: CachedPrefix
    encoding: Encoding
    marker: str
    lmm: Generates
    tokenizer: Any

    @property
    def kept(self) -> Bool[Tensor, "layer token"]:
        """The prompt tokens that every layer kept."""
        return self.cached_prefix.kept

    @property
    def kept_patches(self) -> Bool[Tensor, "layer patch"]:
        """The image tokens that every layer kept, in raster order."""
        return self.kept[:, self.encoding.layout.mask("image")[0]]

    @property
    def tokens_kept(self) -> TokenCounts:
        """The number of tokens that it holds."""
        tokens, patches = self.encoding.layout, self.kept_patches
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
        """Answer a question, or several as one batch, from the shortened cache; greedy.

        The question and the assistant's role marker follow the prompt, at the position after its
        last token. The text of the description is not part of the context.

        **Arguments:**

        - `question`, `chat`, `bos`: as `encode` takes them.
        - `graph`: edits and probes that need no sinks; tokens that were not kept have pattern 0.
        - `max_new_tokens`: the longest answer; 25 in the released code.
        - `hf_kwargs`: for `model.generate`.

        **Returns:** a `Run` over the prompt, the question and the answer.

        **Raises:** as `LMM.generate`; `InputError` for an empty question.
        """
        encoding = self.encode(question, chat=chat, bos=bos)
        return self.lmm.generate(encoding, None, graph, max_new_tokens=max_new_tokens, **hf_kwargs)

    def encode(
        self, question: str | Sequence[str], *, chat: bool = True, bos: bool = False
    ) -> Encoding:
        """Encode a question that follows the prompt of the context.

        **Arguments:**

        - `question`: one, or several for a batch.
        - `chat`: False leaves out the assistant's role marker.
        - `bos`: begin the question with another BOS token, as the released code does.

        **Raises:** `InputError` for an empty question.
        """
        questions = [question] if isinstance(question, str) else list(question)
        if not questions or not all(isinstance(q, str) and q.strip() for q in questions):
            raise InputError("ask a question, or a list of them; none may be empty")
        texts = [q.strip() + (self.marker if chat else "") for q in questions]
        with turns_of(self.tokenizer).hold():
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
        """The layout; an image or text of which nothing was kept counts as padding."""
        known, batch = self.encoding.layout, len(segments)
        images = [f"image[{number}]" for number in range(len(known.images[0]))]
        parts = [known.mask(group)[0] for group in (*images, "prompt & ~image")]
        gone = torch.stack([part & ~(self.kept & part).any() for part in parts]).any(0)
        before = known.segments.masked_fill(gone, PAD).expand(batch, -1)
        index = known.image_index.masked_fill(gone, -1).expand(batch, -1)
        apart = (known.mask("separator") & ~gone).expand(batch, -1)
        new = torch.full_like(segments, -1)
        turns = None
        if known.turns is not None:
            turns = torch.cat([known.turns.masked_fill(gone, -1).expand(batch, -1), new], 1)
        return replace(
            known,
            segments=torch.cat([before, segments], 1),
            image_index=torch.cat([index, new], 1),
            roles=torch.cat([(known.roles & ~gone).expand(batch, -1), roles], 1),
            images=known.images * batch,
            prompt_length=known.length + segments.shape[1],
            separators=torch.cat([apart, torch.zeros_like(roles)], 1),
            digests=known.digests * batch,
            turns=turns,
            frames=known.frames * batch,
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
            layout=layout,
            images=((),) * len(ids),
            prompts=tuple(self.encoding.prompts[0] + text for text in texts),
            batched=not isinstance(question, str),
            cached_prefix=self.cached_prefix,
        )


def describe(
    lmm: Any, run_request: RunRequest, specs: Sequence[CompressedContext], executor: Executor
) -> tuple[Context, ...]:
    """Describe an image once, and make a context from it for each specification.

    **Arguments:**

    - `executor`: executes the description; `engine.execute`, or one that sends it to a server.

    **Raises:** as `LMM.compress`.
    """
    encoding = run_request.encoding
    _refuse(lmm.hooked, encoding, run_request.graph)
    probes = dict.fromkeys(probe for one in specs for probe in one.probes)
    run, outcome = with_outcome(
        lmm, replace(run_request, graph=EditGraph(run_request.graph, *probes)), executor
    )
    tau = lmm.sinks.tau if any(one.needs_sinks for one in specs) else None
    marker = answer_marker(lmm.processor, lmm.hooked.family)
    chosen = [s.choose(run, encoding.images[0], lmm.n_layers, tau) for s in specs]
    told = ("input_ids", "attention_mask")
    inputs = {name: value for name, value in encoding.inputs.items() if name not in told}
    if executor is execute:
        cache = getattr(outcome.output, CACHE_ARGUMENT)
        kept = [prefix_of(lmm.hooked, cache, each, inputs) for each in chosen]
    else:
        kept = [CachedPrefix((), (), each, inputs=inputs) for each in chosen]
    return tuple(
        Context(spec, run, cached_prefix, encoding, marker, lmm, lmm.processor.tokenizer)
        for spec, cached_prefix in zip(specs, kept, strict=True)
    )


def _refuse(hooked: HookedModel, encoding: Encoding, graph: EditGraph) -> None:
    """Refuse what a context cannot be made from.

    **Raises:** `InputError` for a batch, `LayoutError` without an image, `CapabilityError` for a
    model whose cache or positions cannot be continued, or for a graph that drops keys.
    """
    if encoding.layout.batch > 1:
        raise InputError("compress one prompt at a time; a context takes several questions")
    encoding.layout.check_group("image")
    if encoding.layout.n_given:
        raise InputError(
            "this prompt already has an answer, and a context is made while one is generated: "
            "leave with_answer out"
        )
    refuse_prefix(hooked, encoding.inputs)
    if any(isinstance(node, CacheEdit) for node in graph):
        raise CapabilityError(
            "compress chooses what stays in the cache itself; take DropKeys out of the graph"
        )
