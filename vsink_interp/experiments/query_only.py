"""Query-token-only generation (Kaduri et al. 2025, KO_{img -> gen} in all layers)."""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float

from ..edits import Knockout
from ..model import LMM, Tick
from ..results.result import Result
from ..storage import Log
from .cases import Cases
from .depth import pattern_layers
from .provenance import dependence, with_provenance
from .steps import under_graphs


@final
@dataclass(frozen=True, eq=False, repr=False)
class QueryOnly(Result):
    """Answers with and without direct access to the image.

    **Attributes:**

    - `normal`, `query_only`: the answers.
    - `f1_normal`, `f1_query_only`: their object F1, 0 to 1.
    - `graph`: the knockout.
    - `reference`: what F1 was measured against.
    - `about`: a description of the cases.
    """

    figure: ClassVar[str] = "query_only"

    normal: tuple[str, ...]
    query_only: tuple[str, ...]
    f1_normal: Float[np.ndarray, " case"]
    f1_query_only: Float[np.ndarray, " case"]
    graph: Knockout
    reference: str
    about: str


@with_provenance
def query_only(
    lmm: LMM,
    cases: Cases,
    *,
    first_token: bool = False,
    log: Log = None,
    tick: Tick | None = None,
) -> QueryOnly:
    """Answer every case twice: normally, and with the image cut off from generated tokens.

    It is cut off in every layer that has a pattern; other layers still carry the image.

    ```python
    found = ex.query_only(lmm, cases)
    found.f1_normal.mean(), found.f1_query_only.mean()
    ```

    **Arguments:**

    - `first_token`: cut the row that predicts the first token too; it is a query row, which Kaduri
        et al.'s released code does not cut.
    - `log`: a JSONL file to which the answers are written; an interrupted measurement continues.
    - `tick`: called in the place of a progress bar, after each batch of answers, of which
        there are two to each case.

    **Raises:** `ResultError` if `log` belongs to another measurement.
    """
    graph = Knockout("image -> generated", pattern_layers(lmm), first_token=first_token)
    graphs = (("normal", None), ("query only", graph))
    about = dependence("query_only", lmm, needs_sinks=False, cases=cases, first_token=first_token)
    normal, blind = under_graphs(lmm, cases, graphs, about, log=log, tick=tick, what="answers")
    return QueryOnly(
        tuple(normal),
        tuple(blind),
        np.array(cases.f1(normal, normal)),
        np.array(cases.f1(blind, normal)),
        graph,
        "the normal answer" if cases.truth is None else "the true objects",
        cases.about,
    )
