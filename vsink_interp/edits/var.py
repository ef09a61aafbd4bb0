"""Visual Attention Redistribution (Kang et al., ICLR 2025, arXiv 2503.03321)."""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from ..errors import NotationError
from ..graph import Edges, Edit, Layers, Site, Sizes, resolve_layers, settle
from ..kernels import redistribute, redistribution_terms
from ..tokens import TokenLayout

_SINKS_FROM = {"paper": "online", "released-code": "prefill"}
"""The modes, and where the sinks of each come from."""
_ROWS = "query generated"


@final
@dataclass(frozen=True)
class VAR(Edit):
    """Move attention from sink tokens to the visual non-sinks, in image-centric heads.

    Equations A-3 to A-6 of docs/papers.md. Acts on the rows of query and generated tokens; every
    row still sums to one. A layer without sinks is left unchanged.

    **Arguments:**

    - `p`: the share of every sink's attention that is *moved*, 0 to 1 (paper: 0.6).
    - `rho`: the lowest visual *non-sink* ratio of an image-centric head, 0 to 1 (paper: 0.8 for
        general questions, 0.5 against hallucination, 0.9 for vision-centric ones).
    - `min_image_mass`: the lowest attention to the image of such a head.
    - `tau`: the lowest sink value (phi) of a sink token; the model's own by default.
    - `mode`: `"paper"`, or `"released-code"`, where `p` is the share *kept*, `rho` the upper bound
        of the *sink* ratio, the last layer is edited, the first two are not, and generated tokens
        are never sinks.
    - `layers`: the layers, counted from 0; each mode excludes some.
    - `sinks_from`: `"prefill"` finds sinks once, among prompt tokens; `"online"` also looks for
        sinks among generated tokens, in each decode step. None takes the mode's choice: `"online"`
        for the paper, `"prefill"` for the released code.

    **Raises:** `NotationError` for a share outside 0 to 1, or an unknown mode or `sinks_from`. When
    run: `LayoutError` if the prompt has no image.
    """

    hook: ClassVar[str] = "attn.hook_pattern"

    p: float = 0.6
    rho: float = 0.5
    min_image_mass: float = 0.2
    tau: float | None = None
    mode: Literal["paper", "released-code"] = "paper"
    layers: Layers = ":"
    sinks_from: str | None = None

    def __post_init__(self) -> None:
        settle(self)
        for name in ("p", "rho", "min_image_mass"):
            if not 0 <= getattr(self, name) <= 1:
                raise NotationError(f"{name} is a share from 0 to 1; got {getattr(self, name)}")
        if self.mode not in _SINKS_FROM:
            raise NotationError(f"mode {self.mode!r} is not one of: {', '.join(_SINKS_FROM)}")
        if self.sinks_from not in (None, "prefill", "online"):
            raise NotationError(f"sinks_from={self.sinks_from!r} is not one of: prefill, online")

    @property
    @override
    def needs_phi(self) -> bool:
        return True

    @property
    @override
    def needs_new_phi(self) -> bool:
        return (self.sinks_from or _SINKS_FROM[self.mode]) == "online"

    @property
    @override
    def targets(self) -> tuple[str, bool] | None:
        return _ROWS, False

    @property
    @override
    def acts_on(self) -> tuple[Edges, ...]:
        return (Edges(_ROWS, "image"),)

    @override
    def fit(self, sizes: Sizes) -> None:
        largest = sizes.d_model**0.5
        if self.tau is not None and not 0 < self.tau <= largest:
            raise NotationError(
                f"tau={self.tau} can never be reached: phi is at most sqrt(d_model) = {largest:.1f}"
            )

    @override
    def resolved_layers(self, n_layers: int) -> tuple[int, ...]:
        last = n_layers - 1 if self.mode == "paper" else n_layers
        first = 0 if self.mode == "paper" else 2
        named = resolve_layers(self.layers, n_layers)
        kept = tuple(layer for layer in named if first <= layer < last)
        # A range may include excluded layers; a layer named by its number may not.
        if not kept or (not isinstance(self.layers, str) and kept != named):
            raise NotationError(
                f"{self!r} names {named}: mode {self.mode!r} edits {first} to {last - 1} only"
            )
        return kept

    @override
    def check(self, layout: TokenLayout, *, generates: bool) -> None:
        layout.check_group("image")
        layout.check_reach("image", _ROWS, generates=generates)

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        terms = site.once(self, self._terms)[..., : site.n_keys]
        if self.needs_new_phi and not site.prefill:
            site.sink_rows(self.tau, into=terms[:, 4, site.first_row :])
        moved = self.p if self.mode == "paper" else 1 - self.p
        return redistribute(value, terms, moved, site.rows(_ROWS))

    def _terms(self, whole: Site) -> Float[Tensor, "batch term key"]:
        sink = whole.sinks(self.tau)
        if not self.needs_new_phi:
            sink = sink & ~whole.keys("generated")
        return redistribution_terms(
            sink,
            whole.keys("image"),
            rho=self.rho,
            min_image_mass=self.min_image_mass,
            mode=self.mode,
        )
