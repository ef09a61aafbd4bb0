"""Any TransformerLens hook function as an edit."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar, final

from torch import Tensor
from typing_extensions import override

from ..errors import NotationError
from ..graph import Edit, Layers, Site, settle


@final
@dataclass
class HookContext:
    """What a TransformerLens hook function receives as `hook`: name, layer, and a scratch dict.

    `ctx` is new in every call: no state outlives a run.
    """

    name: str
    site: Site
    ctx: dict[str, Any] = field(default_factory=dict)

    def layer(self) -> int | None:
        """The layer; None for hook points outside the layers."""
        return self.site.layer


@final
@dataclass(frozen=True)
class Fn(Edit):
    """Run `fn(activation, hook=...)` at a hook point; None keeps the activation.

    Hook functions written for TransformerLens run unchanged, including those that change the
    activation in place. `hook.site` also gives them the token masks.

    **Arguments:**

    - `hook`: a hook point such as `"attn.hook_pattern"` or `"hook_resid_pre"`.
    - `fn`: the hook function.
    - `layers`: the layers, counted from 0.

    **Raises:** `NotationError` for an unknown hook point.
    """

    portable: ClassVar[bool] = False

    hook: str
    fn: Callable[..., Tensor | None]
    _: KW_ONLY
    layers: Layers = ":"

    def __post_init__(self) -> None:
        settle(self)
        if not callable(self.fn):
            raise NotationError(f"Fn takes a function; got {type(self.fn).__name__}")

    def __repr__(self) -> str:
        name = getattr(self.fn, "__name__", repr(self.fn))
        return f"Fn({self.hook!r}, {name}, layers={self.layers!r})"

    @property
    @override
    def whole(self) -> bool:
        return True

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        changed = self.fn(value, hook=HookContext(site.hook.at(site.layer), site))
        return value if changed is None else changed
