"""Visual Attention Redistribution (Kang et al., ICLR 2025, arXiv 2503.03321)."""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from ..errors import NotationError
from ..graph import Edges, Edit, Layers, Site, Sizes, resolve_layers, settle
from ..kernels import redistribute, redistribution_offsets, redistribution_terms
from ..tokens import TokenLayout

_SINKS_FROM = {"paper": "online", "released-code": "prefill"}
"""The modes, and where the sinks of each come from."""
_RHO = {"paper": 0.8, "released-code": 0.5}
"""What is used where no `rho` is given."""
_ROWS = "query generated"


@final
@dataclass(frozen=True)
class VAR(Edit):
    """Move attention from sink tokens to the visual non-sinks, in image-centric heads.

    Equations A-3 to A-6 of docs/papers.md. Acts on the rows of query and generated tokens; every
    row keeps its sum. A layer without sinks is left unchanged.

    ```python
    lmm.generate(image, "How many objects?", vi.VAR(p=0.6, rho=0.8)).text
    ```

    **Arguments:**

    - `p`: the share of every sink's attention that is *moved*, 0 to 1 (paper: 0.6).
    - `rho`: the lowest visual *non-sink* ratio of an image-centric head, 0 to 1. In the paper 0.8
        for general questions, which is the default, 0.5 against hallucination (captions, POPE),
        0.9 for vision-centric questions. The released code ships 0.5, its default here.
    - `min_image_mass`: the lowest attention to the image of such a head.
    - `tau`: the lowest sink value (phi) of a sink token; the model's own by default.
    - `mode`: `"paper"`, or `"released-code"`, where `p` is the share *kept*, `rho` the upper bound
        of the *sink* ratio, the last layer is edited, the first two are not, and generated tokens
        are never sinks.
    - `layers`: the layers, counted from 0. A range leaves out the layers that the mode excludes,
        and the plan says so; an excluded layer that is named by its number is refused.
    - `last_layer`: whether to edit the last layer too. None takes the mode's choice: no for the
        paper, yes for the released code.
    - `sinks_from`: `"prefill"` finds sinks once, among prompt tokens; `"online"` also looks for
        sinks among generated tokens, in each decode step. None takes the mode's choice: `"online"`
        for the paper, `"prefill"` for the released code.

    **Raises:** `NotationError` for a share outside 0 to 1, or an unknown mode or `sinks_from`. When
    run: `LayoutError` if the prompt has no image.
    """

    hook: ClassVar[str] = "attn.hook_pattern"

    p: float = 0.6
    rho: float | None = None
    min_image_mass: float = 0.2
    tau: float | None = None
    mode: Literal["paper", "released-code"] = "paper"
    layers: Layers = ":"
    sinks_from: str | None = None
    last_layer: bool | None = None

    def __post_init__(self) -> None:
        settle(self)
        if self.rho is None:
            object.__setattr__(self, "rho", _RHO.get(self.mode, 0.8))
        for name in ("p", "rho", "min_image_mass"):
            if not 0 <= getattr(self, name) <= 1:
                raise NotationError(f"{name} is a share from 0 to 1; got {getattr(self, name)}")
        if self.mode not in _SINKS_FROM:
            raise NotationError(f"mode {self.mode!r} is not one of: {', '.join(_SINKS_FROM)}")
        if self.sinks_from not in (None, "prefill", "online"):
            raise NotationError(f"sinks_from={self.sinks_from!r} is not one of: prefill, online")

    @property
    def _rho(self) -> float:
        assert self.rho is not None  # noqa: S101 (__post_init__ fills it in)
        return self.rho

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
        allowed = self._allowed(n_layers)
        named = resolve_layers(self.layers, n_layers)
        kept = tuple(layer for layer in named if layer in allowed)
        # A range may include excluded layers; a layer named by its number may not.
        if not kept or (not isinstance(self.layers, str) and kept != named):
            raise NotationError(
                f"{self!r} names {named}: mode {self.mode!r} edits {allowed.start} to "
                f"{allowed.stop - 1} only; last_layer=True edits the last layer too"
            )
        return kept

    @override
    def left_out(self, n_layers: int) -> tuple[int, ...]:
        allowed = self._allowed(n_layers)
        named = resolve_layers(self.layers, n_layers)
        return tuple(layer for layer in named if layer not in allowed)

    def _allowed(self, n_layers: int) -> range:
        """The layers that the mode edits."""
        first, last = (0, False) if self.mode == "paper" else (2, True)
        last = last if self.last_layer is None else self.last_layer
        return range(first, n_layers if last else n_layers - 1)

    @override
    def check(self, layout: TokenLayout, *, generates: bool) -> None:
        layout.check_group("image")
        layout.check_reach("image", _ROWS, generates=generates)

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        terms = site.once("terms", self._terms)[..., : site.n_keys]
        if self.needs_new_phi and not site.prefill:
            site.sink_rows(self.tau, into=terms[:, 3, site.first_row :])
        offsets = site.once("offsets", self._offsets)
        moved = self.p if self.mode == "paper" else 1 - self.p
        return redistribute(value, terms, offsets, moved, site.rows(_ROWS))

    def _terms(self, whole: Site) -> Float[Tensor, "batch term key"]:
        sink = whole.sinks(self.tau)
        if not self.needs_new_phi:
            sink = sink & ~whole.keys("generated")
        return redistribution_terms(sink, whole.keys("image"), rho=self._rho, mode=self.mode)

    def _offsets(self, whole: Site) -> Float[Tensor, "batch 1 term"]:
        return redistribution_offsets(
            whole.keys("image"), rho=self._rho, min_image_mass=self.min_image_mass, mode=self.mode
        )
