"""Gradients of a logit with respect to the values at a hook point."""

import re
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from ..errors import CapabilityError, NotationError
from ..graph import Layers, Probe, Site, TokenOf, settle
from ..tokens import TokenLayout, parse_fixed_group

_OF = re.compile(
    r"logit of (?P<one>'[^']+'|\"[^\"]+\"|\d+)"
    r"(?: - (?P<other>'[^']+'|\"[^\"]+\"|\d+))? at (?P<at>.+)"
)


@final
@dataclass(frozen=True)
class Gradient(Probe):
    """The gradient of a logit with respect to the value at a hook point, with its axes.

    Computed by autograd through the whole model, edits included, in one forward pass and one
    backward pass. Where values are patterns this is the attention gradient of Chefer et al. (2021),
    arXiv 2103.15679; times the values it is gradient x input.

    ```python
    gradient = vi.probes.Gradient("attn.hook_pattern", of="logit of 'blue' at last", layers=3)
    run = lmm.run(image, "What colour is it?", gradient)
    run[gradient]                                            # layer batch head query key
    ```

    **Arguments:**

    - `hook`: the hook point.
    - `of`: `"logit of 'blue' at last"`, or a difference, `"logit of 'blue' - 'red' at last"`: a
        word of one token, or an id without quotes, and the group of rows whose logits are summed.
        `last` is the row that predicts the first generated token.
    - `layers`: the layers, counted from 0.
    - `rows`: the group of tokens whose rows are kept, as their smallest span; None keeps every row.

    **Raises:** `NotationError` for a name or an `of` that cannot be read. When run: `InputError`
    for a word that is not one token; `CapabilityError` in `generate`; `RemoteError` on a server
    that does not trust your key, for there code of yours runs apart from the model.
    """

    hook: str
    of: str
    layers: Layers = ":"
    _: KW_ONLY
    rows: str | None = None
    ids: tuple[int, ...] = field(default=(), repr=False, compare=False)

    needs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        settle(self)
        self._read()
        parse_fixed_group(self.at, "the rows of a gradient")
        parse_fixed_group(self.rows or "all", "the rows of a gradient")
        if self.rows is not None and "query" not in self.point.axes:
            raise NotationError(f"{self.hook!r} has no rows of tokens: {self.point.axes}")

    def _read(self) -> re.Match[str]:
        found = _OF.fullmatch(self.of)
        if found is None:
            raise NotationError(
                f"of={self.of!r} is not \"logit of 'blue' at last\", \"logit of 'blue' - 'red' at "
                'last" or "logit of 42 at last"'
            )
        return found

    @property
    def at(self) -> str:
        """The rows whose logits are summed."""
        return self._read()["at"]

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes that the hook table gives the hook point."""
        return self.point.axes

    @property
    @override
    def whole(self) -> bool:
        return True

    @property
    @override
    def targets(self) -> tuple[str, bool] | None:
        return None if self.rows is None else (self.rows, False)

    @override
    def worded(self, token: TokenOf) -> "Gradient":
        words = [text for text in self._read().group("one", "other") if text is not None]
        ids = tuple(token(int(w) if w.isdigit() else w[1:-1]) for w in words)
        return replace(self, ids=ids)

    @override
    def check(self, layout: TokenLayout, *, generates: bool) -> None:
        for group in {self.at, self.rows or "all"}:
            layout.check_group(group, generates=generates)

    def target(
        self, logits: Float[Tensor, "batch row vocab"], layout: TokenLayout
    ) -> Float[Tensor, ""]:
        """The number whose gradient it is; samples do not mix, so each has its own."""
        wanted = logits[..., self.ids[0]]
        if len(self.ids) > 1:
            wanted = wanted - logits[..., self.ids[1]]
        rows = layout.mask(self.at).to(logits.device)[:, : logits.shape[1]]
        return torch.where(rows, wanted, 0).sum()

    @override
    def measure(self, value: Tensor, site: Site) -> Any:
        raise CapabilityError(f"{self!r}: gradients are computed in run, not by calling measure")
