"""Your own probe, written as a function."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, final, get_type_hints

from torch import Tensor
from typing_extensions import override

from ..errors import NotationError
from ..graph import Layers, Probe, Site, call, settle, takes_hook

Measure: TypeAlias = Callable[..., Tensor]
"""`fn(value, site)`, or TransformerLens's `fn(value, hook=...)`."""


@final
@dataclass(frozen=True)
class ProbeFunction(Probe):
    """A function `(value, site) -> tensor` as a probe; `probe` makes one."""

    portable: ClassVar[bool] = False

    hook: str
    fn: Measure
    axes: tuple[str, ...]
    layers: Layers = ":"
    key: str | None = None
    by_row: bool = False

    def __post_init__(self) -> None:
        settle(self)
        takes_hook(self.fn, "a probe")

    def __repr__(self) -> str:
        return getattr(self.fn, "__name__", "probe")

    def __reduce__(self) -> tuple[Any, ...]:
        # Under the name of a decorated function pickle would find this probe, not the function.
        module, name = self.fn.__module__, getattr(self.fn, "__qualname__", "")
        if getattr(sys.modules.get(module), name, None) is self:
            return _named, (module, name)
        fields = (self.hook, self.fn, self.axes, self.layers, self.key, self.by_row)
        return ProbeFunction, fields

    @property
    @override
    def whole(self) -> bool:
        # Tiles of rows can be joined only along an axis that they have.
        return not self.by_row or "query" not in self.axes

    @override
    def measure(self, value: Tensor, site: Site) -> Tensor:
        # It may work in place, and must not change what the model goes on with.
        return call(self.fn, value.clone(), site, with_hook=takes_hook(self.fn, "a probe"))


def _named(module: str, name: str) -> ProbeFunction:
    return getattr(importlib.import_module(module), name)


def probe(
    hook: str, *, layers: Layers = ":", key: str | None = None, by_row: bool = False
) -> Callable[[Measure], ProbeFunction]:
    """Make a function a probe; its return annotation names the axes of the result.

    ```python
    @vi.probe("attn.hook_pattern")
    def image_mass(pattern, site) -> Float[Tensor, "batch head query"]:
        return (pattern * site.keys("image")[:, None, None]).sum(-1)
    ```

    **Arguments:**

    - `hook`: the hook point whose value the function gets, together with a `Site`; a function with
        a parameter called `hook` gets TransformerLens's instead, as in `vi.Fn`.
    - `layers`: the layers, counted from 0.
    - `key`: as `Fn` takes it.
    - `by_row`: whether what it says of a row depends on that row alone. Scores and patterns of long
        prompts then come in tiles of rows, and are never held whole; by default all rows of a pass
        come at once, so that a function may look across them.

    **Raises:** `NotationError` if the return annotation names no axes.
    """

    def wrap(fn: Measure) -> ProbeFunction:
        return ProbeFunction(hook, fn, _declared(fn), layers, key, by_row)

    return wrap


def _declared(fn: Measure) -> tuple[str, ...]:
    """The axes that a function's return annotation names."""
    given = getattr(fn, "__annotations__", {}).get("return")
    try:
        found = get_type_hints(fn).get("return")
    except Exception as error:
        raise NotationError(_unread(fn, given)) from error
    axes = getattr(found, "dim_str", "").split()
    if not axes or not all(map(str.isidentifier, axes)):
        raise NotationError(_unread(fn, given))
    return tuple(axes)


def _unread(fn: Measure, given: Any) -> str:
    shown = "nothing" if given is None else getattr(given, "__name__", repr(given))
    axes = given if isinstance(given, str) and given.replace(" ", "").isidentifier() else ""
    return (
        f"{getattr(fn, '__name__', fn)} must say what it returns, with a name for each axis, as in "
        f'-> Float[Tensor, "{axes or "batch head query"}"] (from jaxtyping import Float; from '
        f"torch import Tensor); got {shown}"
    )
