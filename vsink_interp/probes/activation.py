"""Probes of the plain value of a hook point."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal, final

from torch import Tensor
from typing_extensions import override

from ..errors import NotationError
from ..graph import Layers, Probe, Site, settle
from ..tokens import TokenLayout, parse_fixed_group
from .row_probe import RowProbe

_RESID = ("pre", "mid", "post")


@final
@dataclass(frozen=True)
class Activation(Probe):
    """The value of any hook point, with the axes of the hook table.

    ```python
    stream = vi.probes.Activation("hook_resid_post", layers=[0, 4])
    lmm.run(image, "What is this?", stream)[stream].at(layer=4).values        # batch query d_model
    ```

    **Arguments:**

    - `hook`: a hook point such as `"attn.hook_z"` or `"vision_projector.hook_out"`.
    - `layers`: the layers, counted from 0; a full name, `"blocks.3.attn.hook_z"`, includes its
        layer.
    - `rows`: the group of tokens whose rows are recorded, as the smallest span that holds them all;
        None records every row, padding included.

    **Raises:** `NotationError` for `rows` at a hook point without rows, or rows that depend on
    sinks.
    """

    hook: str
    layers: Layers = ":"
    _: KW_ONLY
    rows: str | None = None

    def __post_init__(self) -> None:
        settle(self)
        if self.rows is None:
            return
        if "query" not in self.point.axes:
            raise NotationError(f"{self.hook!r} has no rows of tokens: {self.point.axes}")
        parse_fixed_group(self.rows, "the rows of a probe")

    @property
    @override
    def targets(self) -> tuple[str, bool] | None:
        return None if self.rows is None else (self.rows, False)

    @override
    def check(self, layout: TokenLayout, *, generates: bool) -> None:
        if self.rows is not None:
            layout.check_group(self.rows, generates=generates)

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes of the hook point, from the table of hook points."""
        return self.point.axes

    @override
    def measure(self, value: Tensor, site: Site) -> Tensor:
        return value.clone()


@final
@dataclass(frozen=True)
class Resid(RowProbe):
    """The residual stream: `[layer batch query d_model]`.

    ```python
    resid = vi.probes.Resid("image", layers=4, at="post")
    lmm.run(image, "What is this?", resid)[resid].values.shape
    ```

    **Arguments:**

    - `at`: `"pre"` (entering the layer), `"mid"` (between attention and MLP) or `"post"`.
    """

    axes: ClassVar[tuple[str, ...]] = ("batch", "query", "d_model")

    rows: str = "all"
    _: KW_ONLY
    at: Literal["pre", "mid", "post"] = "post"

    def __post_init__(self) -> None:
        RowProbe.__post_init__(self)
        if self.at not in _RESID:
            raise NotationError(f"at={self.at!r} is not one of: {', '.join(_RESID)}")

    @property
    def hook(self) -> str:
        """The hook point that `at` stands for."""
        return f"hook_resid_{self.at}"

    @override
    def measure(self, value: Tensor, site: Site) -> Tensor:
        return value.clone()


@final
@dataclass(frozen=True)
class Logits(RowProbe):
    """The logits of each row, before a cap and any logits processor: `[batch query vocab]`.

    ```python
    logits = vi.probes.Logits("last")
    lmm.run(image, "What is this?", logits)[logits].values.argmax(-1)
    ```
    """

    hook: ClassVar[str] = "unembed.hook_out"
    axes: ClassVar[tuple[str, ...]] = ("batch", "query", "vocab")

    rows: str = "all"

    @override
    def measure(self, value: Tensor, site: Site) -> Tensor:
        return value.clone()
