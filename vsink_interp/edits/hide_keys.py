"""Hide chosen tokens, sinks or random tokens from the text (Kang et al. 2025, figure 3b)."""

from dataclasses import KW_ONLY, dataclass
from hashlib import sha256
from typing import ClassVar, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from ..errors import LayoutError, NotationError
from ..graph import Edit, Layers, Site, freeze, settle
from ..kernels import cut_tokens, edges_between, random_like
from ..tokens import TokenLayout, parse_fixed_group, parse_group


@final
@dataclass(frozen=True)
class HideKeys(Edit):
    """Hide tokens from attention, or as many random tokens as a control.

    Scores are cut before the softmax, as in a knockout, so rows still sum to one; a row that would
    lose every key is left unchanged. Without a control, `HideKeys(tokens)` equals
    `Knockout(f"{tokens} -> query generated")`; it also takes positions, and a control.
    Figure 3b of Kang et al. (2025) compares `HideKeys("sink & image")` with
    `HideKeys("sink & image", control=0)`.

    What a control hides follows from its seed, the images and the text of the prompt, and the
    layer, and from nothing else. Every scene has a draw of its own, so that a mean over scenes is
    one over draws too. One scene has the same draw alone and in a batch, in the prompt and while
    the answer is generated, here and on a server; another seed draws anew for every scene.

    ```python
    hidden = vi.HideKeys("sink & image")
    random = vi.HideKeys("sink & image", control=0)           # as many other image tokens
    [lmm.generate(image, "What is this?", edit, max_new_tokens=4).text for edit in (hidden, random)]
    ```

    **Arguments:**

    - `tokens`: a group such as `"sink & image"`, or positions in the prompt, padding not counted.
    - `layers`: the layers, counted from 0.
    - `target`: the rows from which the tokens are hidden.
    - `control`: a seed. Hides instead as many random tokens of the prompt as it has of `tokens`,
        drawn from the others of `pool`, anew for every prompt and layer.
    - `pool`: where the control draws from.
    - `redraw`: False draws the control once for a prompt, the same in all layers.
    - `partial`: True has the control hide all others where they are fewer than `tokens`, which is
        refused else; a prompt with no other at all is refused, but for groups of sinks.

    **Raises:** `NotationError` for a group that cannot be read. When run: `LayoutError` if the
    prompt lacks a segment or a position, or `pool` has too few others for a control.
    """

    hook: ClassVar[str] = "attn.hook_attn_scores"

    tokens: str | tuple[int, ...]
    layers: Layers = ":"
    _: KW_ONLY
    target: str = "query generated"
    control: int | None = None
    pool: str = "image"
    redraw: bool = True
    partial: bool = False

    def __post_init__(self) -> None:
        settle(self)
        freeze(self, "tokens")
        if isinstance(self.tokens, str):
            parse_group(self.tokens)
        elif not self.tokens or min(self.tokens) < 0:
            raise NotationError(
                f"HideKeys({self.tokens!r}) hides nothing; give a group, or positions from 0 on"
            )
        parse_fixed_group(self.target, "the target of HideKeys")
        parse_fixed_group(self.pool, "the pool of HideKeys")
        if self.control is None and (self.pool != "image" or not self.redraw or self.partial):
            raise NotationError(
                "pool, redraw and partial belong to a control; give it a seed, as control=0"
            )

    @property
    @override
    def needs_phi(self) -> bool:
        return isinstance(self.tokens, str) and "sink" in parse_group(self.tokens).words

    @property
    @override
    def needs_new_phi(self) -> bool:
        return self.needs_phi and self._grows

    @property
    def _grows(self) -> bool:
        return isinstance(self.tokens, str) and parse_group(self.tokens).grows

    @property
    @override
    def keeps_keys(self) -> bool:
        return True

    @property
    @override
    def targets(self) -> tuple[str, bool] | None:
        return self.target, False

    @override
    def check(self, layout: TokenLayout, *, generates: bool) -> None:
        layout.check_group(self.target, generates=generates)
        if self.control is not None:
            layout.check_group(self.pool)
        if isinstance(self.tokens, str):
            layout.check_group(self.tokens, generates=generates)
            layout.check_reach(self.tokens, self.target, generates=generates)
        elif max(self.tokens) >= (shortest := int(layout.mask("prompt").sum(-1).min())):
            raise LayoutError(f"{self!r}: this prompt has positions 0 to {shortest - 1}")
        if self.control is not None:
            self._check_control(layout)

    def _check_control(self, layout: TokenLayout) -> None:
        prompt = layout.mask("prompt")
        if isinstance(self.tokens, str):
            wanted = layout.may_be(parse_group(self.tokens)) & prompt
            if not wanted.any():
                raise LayoutError(
                    f"{self!r}: a control hides as many others as the prompt has of "
                    f"{self.tokens!r}, and it has none"
                )
        else:
            wanted = self._places(prompt)
        if not self.needs_phi:
            self._refuse_small(layout.mask(self.pool) & prompt & ~wanted, wanted)

    def _refuse_small(
        self,
        left: Bool[Tensor, "batch token"],
        wanted: Bool[Tensor, "batch token"],
        where: str = "",
    ) -> None:
        there, asked = left.sum(-1), wanted.sum(-1)
        least = asked.clamp(max=1) if self.partial else asked
        short = there < least
        or_all = "" if self.partial else ", or hide all others there with partial=True"
        if short.any():
            sample = int(short.int().argmax())
            raise LayoutError(
                f"{self!r}: the control needs {int(asked[sample])} other tokens of {self.pool!r}, "
                f"and there are {int(there[sample])}, in prompt {sample} of the batch{where}; name "
                f"a larger pool{or_all}"
            )

    def _places(self, prompt: Bool[Tensor, "batch token"]) -> Bool[Tensor, "batch token"]:
        """The positions as a mask, counted from the first token that is not padding."""
        counted = prompt.cumsum(-1) - 1
        places = torch.tensor(self.tokens, device=prompt.device)
        return prompt & torch.isin(counted, places)

    def chosen(self, site: Site) -> Bool[Tensor, "batch key"]:
        """The tokens that are hidden at this layer."""
        if isinstance(self.tokens, str):
            wanted = site.keys(self.tokens)
        else:
            wanted = self._places(site.keys("prompt"))
        if self.control is None:
            return wanted
        # Of the prompt alone: with the answer it hides what it hides without it.
        wanted = wanted & site.keys("prompt")
        pool = site.keys(self.pool) & site.keys("prompt") & ~wanted
        if self.needs_phi and not self.partial:
            self._refuse_small(pool, wanted, f" at layer {site.layer}")
        return random_like(wanted, pool, site.once((self, "draw"), self._draw)[:, : site.n_keys])

    def _draw(self, site: Site) -> Float[Tensor, "batch key"]:
        # Drawn over the prompt alone: a decode step must hide what the prefill hid. From its end
        # backwards: padding in front must not change what is drawn.
        layout = site.layout
        layer = site.layer if self.redraw else None
        draw = torch.ones(layout.batch, site.n_keys)
        for row, name in zip(draw, layout.digests or ("",) * layout.batch, strict=True):
            seed = sha256(repr((self.control, layer, name)).encode()).hexdigest()[:14]
            source = torch.Generator().manual_seed(int(seed, 16))
            row[: layout.prompt_length] = torch.rand(layout.prompt_length, generator=source).flip(0)
        return draw.to(site.masks.device)

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        if self.needs_new_phi:
            chosen = self.chosen(site)
        else:
            chosen = site.once(self, self.chosen)[:, : site.n_keys]
        return cut_tokens(value, edges_between(chosen, site.rows(self.target)))
