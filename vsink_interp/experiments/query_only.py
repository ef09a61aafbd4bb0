"""Generation from the query tokens alone (Kaduri et al. 2025, KO_{img -> gen} in all layers)."""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float

from ..edits import Knockout
from ..model import LMM
from .answers import answers
from .cases import Cases
from .depth import pattern_layers


@final
@dataclass(frozen=True, eq=False)
class QueryOnly:
    """Answers with and without direct sight of the image.

    **Attributes:**

    - `normal`, `query_only`: the answers.
    - `f1_normal`, `f1_query_only`: their object F1, 0 to 1.
    - `graph`: the knockout.
    - `reference`: what F1 was measured against.
    - `about`: what the cases were.
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
    """Answer every case twice: as usual, and with generated tokens blind to the image.

    They are in every layer that has a pattern; other layers still let the image through.

    **Arguments:**

    - `first_token`: blind the row that predicts the first token too; it is a query row, and the
        released code of Kaduri et al. leaves it alone.
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
