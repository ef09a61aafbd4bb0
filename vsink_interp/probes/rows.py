"""What probes of query rows share: which rows they read."""

from dataclasses import dataclass

from typing_extensions import override

from ..errors import NotationError
from ..graph import Probe, freeze
from ..hooks import Layers, check_layers
from ..segments import parse_group
from ..tokens import TokenLayout


@dataclass(frozen=True)
class RowProbe(Probe):
    """A probe of some query rows.

    **Arguments:**

    - `rows`: the group of tokens whose rows it reads; the result covers the smallest span that
        holds them all.
    - `layers`: the blocks, counted from 0.
    """

    rows: str = "query generated"
    layers: Layers = ":"

    def __post_init__(self) -> None:
        freeze(self, "layers")
        check_layers(self.layers)
        if "sink" in parse_group(self.rows).words:
            raise NotationError("the rows of a probe cannot depend on sinks; its keys can")

    @property
    @override
    def targets(self) -> tuple[str, bool] | None:
        return self.rows, False

    @override
    def check(self, tokens: TokenLayout, *, generates: bool) -> None:
        tokens.check_group(self.rows, generates=generates)
