"""What VAR costs, in the same run: seconds for each token of an answer."""

from collections.abc import Iterator
from time import perf_counter

import numpy as np

from ...edits import VAR
from ...experiments import Cases
from ...graph import EditGraph
from ...model import LMM
from ..entry import Entry, Outcome, Setup
from ..measurements import Measurements, Row
from ..over_cases import OverCases
from .benchmarks import HALLUCINATION, var_of

N_TOKENS = 16


def per_token(lmm: LMM, cases: Cases, setup: Setup) -> Iterator[Row]:
    """Milliseconds a token, prefill included: off, VAR and VAR as released, in turn."""
    del setup
    released = VAR(0.4, HALLUCINATION, mode="released-code")
    arms = {"off": EditGraph(), "VAR": var_of(lmm, HALLUCINATION)}
    if len(lmm.layers_with(VAR.hook)) == lmm.n_layers:
        arms["VAR, sinks from the prefill"] = VAR(0.6, HALLUCINATION, sinks_from="prefill")
        arms["VAR, as released"] = released
    for case, (image, prompt) in enumerate(zip(cases.images, cases.prompts, strict=True)):
        encoding = lmm.encode(image, prompt)
        for graph in arms.values():  # warm up
            lmm.generate(encoding, graph=graph, max_new_tokens=2)
        for arm, graph in arms.items():
            start = perf_counter()
            lmm.generate(encoding, graph=graph, max_new_tokens=N_TOKENS, min_new_tokens=N_TOKENS)
            spent = 1000 * (perf_counter() - start) / N_TOKENS
            yield {"case": case, "arm": arm, "value": spent}


def _small(found: Measurements) -> Outcome:
    off, on = found.by_case(arm="off"), found.by_case(arm="VAR")
    ratio = float(np.median(on / off))
    return Outcome(ratio <= 1.1, f"VAR takes {ratio:.2f} times as long a token (median)")


LATENCY = Entry(
    "A.latency",
    "seconds for a token of the answer, with VAR off and on",
    "VAR costs at most a tenth more time",
    measure=OverCases(per_token, quick=3, full=20, at_once=1),
    outcome=_small,
    figure="bars",
    axes=("arm",),
    here="the seconds of a server are those of its queue and of the network, not the method's",
    alone="time",
    unit="ms a token",
    note="The paper calls the cost small (secondary source); one comparison of 2026 measured the "
    "released code at 11.1 times. docs/benchmarks.md measures more carefully.",
)
