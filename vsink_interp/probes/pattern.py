"""The full attention pattern."""

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor
from typing_extensions import override

from ..graph import Site
from .row_probe import RowProbe


@final
@dataclass(frozen=True)
class Pattern(RowProbe):
    """The attention pattern of selected rows, `[layer batch head query key]`; each row sums to 1.

    Its size is heads times rows times keys; `SegmentMass` and `AttentionMaps` are far smaller.

    ```python
    pattern = vi.probes.Pattern("last", layers=3)
    lmm.run(image, "What is this?", pattern)[pattern].values                  # batch head query key
    ```
    """

    hook: ClassVar[str] = "attn.hook_pattern"
    axes: ClassVar[tuple[str, ...]] = ("batch", "head", "query", "key")

    @override
    def measure(self, value: Tensor, site: Site) -> Tensor:
        return value.clone()
