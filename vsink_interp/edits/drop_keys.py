"""Drop tokens from the KV cache after the prefill, so that decode steps cannot attend to them.

This is query-token-only generation (Kaduri et al. 2025, arXiv 2411.17491) with a shorter cache.
"""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, final

from jaxtyping import Bool
from torch import Tensor
from typing_extensions import override

from ..errors import LayoutError, NotationError
from ..graph import CACHE, CacheEdit, Edges, Layers, Site, settle
from ..tokens import TokenLayout, parse_group


@final
@dataclass(frozen=True)
class DropKeys(CacheEdit):
    """Remove the keys and values of a group of tokens from the KV cache after the prefill.

    `DropKeys("image")` gives the answer of `Knockout("image -> generated")` from a shorter cache:
    the prompt is read in full, the first token is predicted as usual, and later tokens see only the
    remaining keys, at their original positions. Edits and probes still see one key per token;
    dropped ones have score minus infinity, pattern 0, and NaN at `attn.hook_rot_k`. With
    `"sink & image"` each layer drops its own sinks.

    ```python
    short = vi.DropKeys("image")                              # decode without the image's keys
    lmm.generate(image, "What is this?", short, max_new_tokens=4).text
    ```

    **Arguments:**

    - `group`: the tokens of the prompt that are dropped.
    - `layers`: the layers whose cache is cut, counted from 0; the others keep theirs.
    - `after`: when they are dropped; `"prefill"` is the only choice.

    **Raises:** `NotationError` for a group that cannot be read or holds generated tokens. When run:
    `LayoutError` if the prompt lacks a segment, nothing is generated from the cache, or another
    edit acts only on dropped keys; `CapabilityError` for a layer whose cache is not a plain one.
    """

    hook: ClassVar[str] = CACHE.name

    group: str
    layers: Layers = ":"
    _: KW_ONLY
    after: str = "prefill"

    def __post_init__(self) -> None:
        settle(self)
        if "generated" in parse_group(self.group).words:
            raise NotationError(
                f"DropKeys({self.group!r}): nothing is generated yet when the cache is cut, right "
                "after the prefill; name segments of the prompt"
            )
        if self.after != "prefill":
            raise NotationError(f"after={self.after!r} is not one of: prefill")

    @property
    @override
    def needs_phi(self) -> bool:
        return "sink" in parse_group(self.group).words

    @property
    @override
    def takes(self) -> Edges:
        # What is generated later stays, whatever the group is called, as in "~image".
        unions = parse_group(self.group).unions
        dropped = (" & ".join(map(str, (*terms, "prompt"))) for terms in unions)
        return Edges("generated", " ".join(dropped))

    @override
    def check(self, layout: TokenLayout, *, generates: bool) -> None:
        layout.check_group(self.group, generates=False)
        if not generates:
            raise LayoutError(
                f"{self!r} acts on tokens generated after the first one; use generate with 2 or "
                "more new tokens"
            )

    @override
    def dropped(self, site: Site) -> Bool[Tensor, "batch key"]:
        return site.keys(self.group)
