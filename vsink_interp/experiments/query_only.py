"""Query-token-only generation (Kaduri et al. 2025, KO_{img -> gen} in all layers)."""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float

from ..edits import Knockout
from ..model import LMM
from .answers import answers
from .cases import Cases
from .depth import pattern_layers
from .result import Result


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

    normal: tuple[str, ...]
    query_only: tuple[str, ...]
    f1_normal: Float[np.ndarray, " case"]
    f1_query_only: Float[np.ndarray, " case"]
    graph: Knockout
    reference: str
    about: str


def query_only(
    lmm: LMM,
    cases: Cases,
    *,
    first_token: bool = False,
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
    """
    graph = Knockout("image -> generated", pattern_layers(lmm), first_token=first_token)
    normal = answers(lmm, cases)
    blind = answers(lmm, cases, graph)
    return QueryOnly(
        tuple(normal),
        tuple(blind),
        np.array(cases.f1(normal, normal)),
        np.array(cases.f1(blind, normal)),
        graph,
        "the normal answer" if cases.truth is None else "the true objects",
        cases.about,
    )
