"""The attention pattern itself."""

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor
from typing_extensions import override

from ..graph import Site
from .row_probe import RowProbe


@final
@dataclass(frozen=True)
class Pattern(RowProbe):
    """The attention pattern of some rows, `[layer batch head query key]`, each row summing to 1.

    It grows with heads times rows times keys; `SegmentMass` and `AttentionMaps` are far smaller.
    """

    hook: ClassVar[str] = "attn.hook_pattern"
    axes: ClassVar[tuple[str, ...]] = ("batch", "head", "query", "key")

    @override
    def measure(self, value: Tensor, site: Site) -> Tensor:
        return value.clone()
