"""How much each token contributes to another: the norm of alpha x W_OV."""

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor
from typing_extensions import override

from ..graph import Site
from ..kernels import contribution, output_gram, value_norms
from .row_probe import RowProbe, grown_with_values


@final
@dataclass(frozen=True)
class Contribution(RowProbe):
    """The norm of what each key adds to each row, mean over heads: `[layer batch query key]`.

    In units of the residual stream. Kang et al. (2025), figure 3c: sinks get much attention and
    contribute little. A bias of the output projection belongs to no key and is left out.

    ```python
    added = vi.probes.Contribution("query", layers=3)
    lmm.run(image, "What is this?", added)[added].sum("key").values
    ```
    """

    hook: ClassVar[str] = "attn.hook_pattern"
    axes: ClassVar[tuple[str, ...]] = ("batch", "query", "key")

    @property
    @override
    def needs_values(self) -> bool:
        return True

    @override
    def measure(self, value: Tensor, site: Site) -> Tensor:
        gram = site.once((self, "gram"), lambda whole: output_gram(whole.extras["weight"]))
        norms = grown_with_values(site, self, lambda values: value_norms(values, gram))
        return contribution(value, norms)
