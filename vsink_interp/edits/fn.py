"""Any function as an edit, TransformerLens hook functions among them."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, final

from torch import Tensor
from typing_extensions import override

from ..graph import Edit, Layers, Site, call, settle, takes_hook


@final
@dataclass(frozen=True)
class Fn(Edit):
    """Run `fn(value, site)` at a hook point; what it returns goes on, None keeps the value.

    A function with a parameter called `hook` is called as TransformerLens calls it,
    `fn(value, hook=...)`: its hook functions run unchanged, including those that change the
    activation in place, and `hook.site` gives them the token masks too.

    ```python
    def halve(value, site):
        return value / 2 if site.layer > 1 else None

    vi.Fn("attn.hook_z", halve)
    ```

    **Arguments:**

    - `hook`: a hook point such as `"attn.hook_pattern"` or `"hook_resid_pre"`.
    - `fn`: the function; its `Site` says layer, tokens and phase.
    - `layers`: the layers, counted from 0.
    - `key`: what stands for the function where rows are kept and gone on with; by default its code
        and what it uses, so that another function's rows are refused.

    **Raises:** `NotationError` for an unknown hook point, or a function that takes something else.
    """

    portable: ClassVar[bool] = False

    hook: str
    fn: Callable[..., Tensor | None]
    _: KW_ONLY
    layers: Layers = ":"
    key: str | None = None

    def __post_init__(self) -> None:
        settle(self)
        takes_hook(self.fn, "Fn")

    def __repr__(self) -> str:
        name = getattr(self.fn, "__name__", repr(self.fn))
        key = "" if self.key is None else f", key={self.key!r}"
        return f"Fn({self.hook!r}, {name}, layers={self.layers!r}{key})"

    @property
    @override
    def whole(self) -> bool:
        return True

    @property
    @override
    def is_foreign(self) -> bool:
        return True

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        changed = call(self.fn, value, site, with_hook=takes_hook(self.fn, "Fn"))
        return value if changed is None else changed
