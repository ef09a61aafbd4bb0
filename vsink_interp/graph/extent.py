"""What nodes act on, and how large the model is: values that edits and probes are checked by."""

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class Edges:
    """Edges of attention, known before the run.

    **Attributes:**

    - `rows`: the group of query rows; `first_token` counts the last prompt row as generated.
    - `columns`: the group of keys.
    - `heads`: the query heads; None is all of them.
    """

    rows: str
    columns: str
    first_token: bool = False
    heads: tuple[int, ...] | None = None


@final
@dataclass(frozen=True)
class Sizes:
    """The sizes of a model: layers, query heads, width of the residual stream, key heads.

    `learned_sinks` are the layers whose softmax has a learned sink for every head; `no_register`
    says why no token can be added to the patches of the vision encoder, if none can.
    """

    n_layers: int
    n_heads: int
    d_model: int
    n_kv_heads: int = 0
    learned_sinks: tuple[int, ...] = ()
    no_register: str = ""
