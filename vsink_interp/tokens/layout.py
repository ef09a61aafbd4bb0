"""`TokenLayout`: what each token of a batch is, in the prefill and in decode steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..errors import LayoutError
from .groups import Flow, Group, Term, parse_flow, parse_group
from .image_tokens import ImageSpan
from .presence import refuse_absent, refuse_blind, refuse_unseen
from .segments import CODE, PAD, PAST, line
from .sight import Sight, Window, seen_from, widest


@final
@dataclass(frozen=True, eq=False, repr=False)
class TokenLayout:
    """What every token of a batch is.

    ```python
    layout = lmm.encode(image, "What is this?").layout
    print(layout)                                             # bos[1] system[2] image[8x8=64] ...
    layout.mask("image[0]").sum(), layout.mask("query & ~role").sum()
    ```

    **Attributes:**

    - `segments`: one code of `CODE` per token, 0 for padding.
    - `image_index`: which image of its prompt a token belongs to, -1 elsewhere.
    - `roles`: tokens of role markers such as `USER:`; each also belongs to a segment.
    - `images`: the images of each sample.
    - `prompt_length`: the end of the prompt: tokens before the first of an answer.
    - `separators`: tokens that come with an image and are no patches of it: ends of rows, marks
        around tiles; each also belongs to a segment. None where there are none.
    - `sight`: what a row sees besides the tokens before it.
    - `windows`: of each layer, how many tokens a row sees back from itself, itself included; None
        for all. Empty if no layer has a window.
    - `digests`: a name for the images and the text of each prompt, by which random choices tell
        samples apart; empty for a layout that was made by hand.
    - `n_given`: how many tokens of an answer are given and read with the prompt; they count as
        generated, and the run itself generates those behind them.
    - `turns`: which message of its conversation says or shows a token, counted from 0; -1 for
        what the chat format puts around them, the system's message and the answer. None if that is
        not known.
    - `frames`: for each sample the frames of its video, as numbers of images: frames that the
        model merges have one number.
    - `marks`: the tokens of words that a run of the model found, such as `vsink`.
    """

    segments: Int[Tensor, "batch token"]
    image_index: Int[Tensor, "batch token"]
    roles: Bool[Tensor, "batch token"]
    images: tuple[tuple[ImageSpan, ...], ...]
    prompt_length: int
    separators: Bool[Tensor, "batch token"] | None = None
    sight: Sight = "causal"
    digests: tuple[str, ...] = ()
    n_given: int = 0
    windows: tuple[int | None, ...] = ()
    turns: Int[Tensor, "batch token"] | None = None
    frames: tuple[tuple[int, ...], ...] = ()
    marks: tuple[tuple[str, Bool[Tensor, "batch token"]], ...] = ()

    @property
    def batch(self) -> int:
        """The number of samples."""
        return self.segments.shape[0]

    @property
    def length(self) -> int:
        """The number of tokens, padding and generated ones included."""
        return self.segments.shape[1]

    @property
    def first_pass(self) -> int:
        """How many tokens the first pass reads: the prompt, and an answer that is given."""
        return self.prompt_length + self.n_given

    @property
    def answer_start(self) -> int:
        """The first token of the answer that a run is about: of what it generated, or was given."""
        return self.prompt_length if self.length == self.first_pass else self.first_pass

    @property
    def read(self) -> Bool[Tensor, "batch token"]:
        """The tokens that a sample alone would have had a row for.

        Padding is left out, and so is the last token that a run generated: it is fed back only
        where a longer answer in its batch goes on.
        """
        real = self.segments != PAD
        if self.length == self.first_pass:
            return real
        last = real.flip(-1).cumsum(-1).flip(-1) == 1
        return real & ~last

    def __repr__(self) -> str:
        lines = str(self).splitlines()
        more = f", and {len(lines) - 1} more" if len(lines) > 1 else ""
        return f"TokenLayout({lines[0]}{more})"

    def _repr_html_(self) -> str:
        from ..plot.notebook import layout_html

        return layout_html(self)

    def __str__(self) -> str:
        """One line per sample, as in `bos[1] system[34] image[24x24=576] query[12]`."""
        return "\n".join(line(self, sample) for sample in range(self.batch))

    def mask(
        self, group: str | Group, *, sink: Bool[Tensor, "batch token"] | None = None
    ) -> Bool[Tensor, "batch token"]:
        """Which tokens belong to a group such as `"image"`, `"query generated"`, `"sink & image"`.

        **Arguments:**

        - `group`: the notation of `vsink_interp.tokens.groups`.
        - `sink`: which tokens are sinks; needed if the group contains `sink`.

        **Raises:** `NotationError` for an unknown word, `LayoutError` if `sink` is missing.
        """
        parsed = parse_group(group) if isinstance(group, str) else group
        wanted = torch.zeros_like(self.roles)
        for terms in parsed.unions:
            both = self.segments != PAD
            for term in terms:
                both = both & self._term(term, sink)
            wanted = wanted | both
        return wanted

    def _term(
        self, term: Term, sink: Bool[Tensor, "batch token"] | None
    ) -> Bool[Tensor, "batch token"]:
        if term.word == "sink" and sink is None:
            raise LayoutError("'sink' depends on the layer: ask a Site inside a run, or pass sink=")
        found = sink if term.word == "sink" and sink is not None else self._fixed(term)
        return ~found if term.negated else found

    def _fixed(self, term: Term) -> Bool[Tensor, "batch token"]:
        """The tokens of a word that says the same in every layer."""
        if term.word == "role":
            found = self.roles
        elif term.word == "separator":
            found = self._separators
        elif term.word == "all":
            found = self.segments != PAD
        elif term.word == "prompt":
            found = (self.segments != PAD) & (self.segments != CODE["generated"])
        elif term.word == "first":
            real = self.segments != PAD
            found = real & (real.cumsum(-1) == 1)
        elif term.word == "last":
            places = torch.arange(self.length, device=self.segments.device)
            found = (places == self.prompt_length - 1).expand(self.batch, -1)
        elif term.number is not None:
            found = self._numbered(term.word, term.number)
        elif term.word not in CODE:
            found = self._marked(term.word)
        else:
            found = self.segments == CODE[term.word]
        return found

    def _marked(self, word: str) -> Bool[Tensor, "batch token"]:
        for known, mask in self.marks:
            if known == word:
                return mask
        raise LayoutError(
            f"{word!r} is found by a run of the model: name it in the graph of run or generate, or "
            f"first say encoding = vi.mark(lmm, encoding, {word!r})"
        )

    def marked(self, word: str, tokens: Bool[Tensor, "batch token"]) -> "TokenLayout":
        """The layout with these tokens under a word, instead of those that it had.

        **Raises:** `LayoutError` for a mask of another shape.
        """
        if tokens.shape != self.segments.shape:
            shapes = tuple(tokens.shape), tuple(self.segments.shape)
            raise LayoutError(f"a mark of shape {shapes[0]}; the tokens are {shapes[1]}")
        others = tuple(each for each in self.marks if each[0] != word)
        return replace(self, marks=(*others, (word, tokens)))

    def _numbered(self, word: str, number: int) -> Bool[Tensor, "batch token"]:
        """One image, one frame of a video, or one turn of a conversation."""
        if word == "image":
            return self.image_index == number
        if word == "turn":
            return self._turns == number
        shown = [row[number] if number < len(row) else PAST for row in self.frames]
        frames = self.image_index.new_tensor(shown or [PAST] * self.batch)
        return self.image_index == frames[:, None]

    @property
    def _turns(self) -> Int[Tensor, "batch token"]:
        return torch.full_like(self.segments, -1) if self.turns is None else self.turns

    @property
    def _separators(self) -> Bool[Tensor, "batch token"]:
        return torch.zeros_like(self.roles) if self.separators is None else self.separators

    def has(self, term: Term) -> bool:
        """Whether some sample has such a token; sinks and generated tokens may still appear.

        `~separator` needs no separator, but `~image[1]` a second image: it is that which is meant.
        """
        if term.word in {"sink", "generated"} or (term.negated and term.number is None):
            return True
        return bool(self._term(replace(term, negated=False), None).any())

    def check_group(self, group: str | Group, *, generates: bool = True) -> None:
        """Refuse a group with a term that the prompt lacks, or with an empty intersection.

        **Raises:** `LayoutError` showing the prompt's segments.
        """
        parsed = parse_group(group) if isinstance(group, str) else group
        refuse_absent(self, parsed, generates=generates)

    def may_be(self, group: Group) -> Bool[Tensor, "batch token"]:
        """The tokens that may belong to a group; any token may come to be a sink, or not."""
        found = torch.zeros_like(self.roles)
        for terms in group.unions:
            both = self.segments != PAD
            for term in terms:
                both = both if term.word == "sink" else both & self._term(term, None)
            found = found | both
        return found

    def ahead(self, *, generates: bool) -> "TokenLayout":
        """The layout with one generated token, if the run is to make the first."""
        return self.extend(1) if generates and self.length == self.prompt_length else self

    def check_flow(self, flow: str, *, first_token: bool = False, generates: bool = True) -> None:
        """Refuse a flow that cannot be cut: a segment is missing, or a row would lose every key.

        **Raises:** `LayoutError` naming the missing segment, or the positions left without keys.
        """
        parsed = parse_flow(flow)
        self.check_group(parsed.source, generates=generates)
        self.check_group(parsed.target, generates=generates or first_token)
        self.check_reach(parsed.source, parsed.target, first_token=first_token, generates=generates)
        if "sink" in parsed.words:
            return
        layout = self.ahead(generates=generates)
        rows = layout.mask(parsed.target)
        if first_token and "generated" in parsed.target.words:
            rows[:, self.prompt_length - 1] = True
        refuse_blind(layout, layout.mask(parsed.source), rows, flow)

    def check_reach(
        self,
        source: str | Group,
        target: str | Group,
        *,
        first_token: bool = False,
        generates: bool = True,
    ) -> None:
        """Refuse a flow in which no target row can attend to a source key, being earlier than all.

        **Raises:** `LayoutError` if no row of `target` is at or after a token of `source`.
        """
        keys, rows = (parse_group(g) if isinstance(g, str) else g for g in (source, target))
        refuse_unseen(self, Flow(keys, rows), first_token=first_token, generates=generates)

    def reached(
        self, keys: Bool[Tensor, "batch token"], window: Window = "any"
    ) -> Bool[Tensor, "batch token"]:
        """The rows that may attend to at least one of these keys, in layers with this window."""
        if self.sight not in ("causal", "cross-attention"):
            seen = self.visible(range(self.length), window)
            return (seen & keys[:, None]).any(-1)
        before = keys.cumsum(-1)
        wide = widest(self.sight, self.windows)[0] if window == "any" else window
        if wide is not None:
            left = torch.nn.functional.pad(before, (wide, 0))[:, : self.length]
            before = before - left
        return (before > 0) & (self.segments != PAD)

    def visible(
        self, rows: Sequence[int], window: Window = "any"
    ) -> Bool[Tensor, "batch row token"]:
        """Which tokens each of some rows may attend to; nothing of padding, in either place.

        **Arguments:**

        - `window`: that of the layer, one of `windows`, None if it has none; by default all that
            some layer lets see.
        """
        at = torch.tensor(list(rows), dtype=torch.long, device=self.segments.device)
        windows = widest(self.sight, self.windows) if window == "any" else (window,)
        seen = seen_from(at, self.image_index, self.prompt_length, self.sight, windows)
        real = self.segments != PAD
        return seen & real[:, None] & real[:, at, None]

    def of_layers(self, layers: Sequence[int]) -> "TokenLayout":
        """The layout as these layers see it: with their windows alone."""
        if len({*self.windows}) < 2:
            return self
        return replace(self, windows=tuple(self.windows[layer] for layer in layers))

    def positions(self, group: str | Group) -> Int[Tensor, "batch place"]:
        """Where the tokens of a group lie in each sample, in order; -1 behind those of a shorter
        one.
        """
        mask = self.mask(group)
        order = (~mask).int().argsort(stable=True, dim=-1)[:, : int(mask.sum(-1).max())]
        return order.masked_fill(~mask.gather(1, order), -1)

    def extend(self, n_tokens: int) -> "TokenLayout":
        """The layout with `n_tokens` generated tokens after it."""
        new = self.segments.new_full((self.batch, n_tokens), CODE["generated"])
        index, roles = torch.full_like(new, -1), torch.zeros_like(new, dtype=torch.bool)
        return replace(
            self,
            segments=torch.cat([self.segments, new], -1),
            image_index=torch.cat([self.image_index, index], -1),
            roles=torch.cat([self.roles, roles], -1),
            separators=torch.cat([self._separators, roles], -1),
            turns=torch.cat([self._turns, index], -1),
            marks=tuple((word, torch.cat([mask, roles], -1)) for word, mask in self.marks),
        )

    def given(self, n_tokens: int) -> "TokenLayout":
        """The layout with an answer of `n_tokens` tokens that is read with the prompt."""
        return replace(self.extend(n_tokens), n_given=self.n_given + n_tokens)

    def first(self, n_tokens: int) -> "TokenLayout":
        """The layout of the first `n_tokens` tokens."""
        return self._each(lambda tokens: tokens[:, :n_tokens])

    def without(self, padding: Bool[Tensor, "batch token"]) -> "TokenLayout":
        """The layout with these tokens counted as padding (those after the end of an answer)."""
        return replace(self, segments=self.segments.masked_fill(padding, PAD))

    def to(self, device: torch.device | str) -> "TokenLayout":
        """The layout on another device."""
        return self._each(lambda tokens: tokens.to(device))

    def select(self, samples: Sequence[int]) -> "TokenLayout":
        """The layout of selected samples of the batch."""
        chosen = list(samples)
        images = tuple(self.images[i] for i in chosen)
        digests = tuple(self.digests[i] for i in chosen) if self.digests else ()
        frames = tuple(self.frames[i] for i in chosen) if self.frames else ()
        here = self._each(lambda tokens: tokens[chosen])
        return replace(here, images=images, digests=digests, frames=frames)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "TokenLayout":
        return replace(
            self,
            segments=change(self.segments),
            image_index=change(self.image_index),
            roles=change(self.roles),
            separators=change(self._separators),
            turns=change(self._turns),
            marks=tuple((word, change(mask)) for word, mask in self.marks),
        )
