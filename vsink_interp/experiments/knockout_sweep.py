"""Knockout from block l on, for the three flows (Kaduri et al. 2025, fig. 2f)."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import numpy as np
from jaxtyping import Float

from ..edits import Knockout
from ..errors import ResultError
from ..lmm import LMM
from .answers import answers
from .cases import Cases
from .depth import sweep_layers

FLOWS: Final = ("image -> generated", "image -> query", "image -> query generated")
"""KO_{img -> gen}, KO_{img -> txt} and KO_{img -> txt+gen}."""

Tick = Callable[[int, int], None]
"""Called with the generations done and their number."""


@final
@dataclass(frozen=True, eq=False)
class KnockoutSweep:
    """Object F1 of every case when a flow is cut from a block on.

    **Attributes:**

    - `f1`: 0 to 1.
    - `baseline`: object F1 of the uncut answers.
    - `flows`: the flows.
    - `layers`: the first block cut, counted from 0; all later ones are cut too.
    - `n_layers`: how many blocks the model has.
    - `reference`: what F1 was measured against.
    - `about`: what the cases were.
    """

    f1: Float[np.ndarray, "flow layer case"]
    baseline: Float[np.ndarray, " case"]
    flows: tuple[str, ...]
    layers: tuple[int, ...]
    n_layers: int
    reference: str
    about: str

    @property
    def mean(self) -> Float[np.ndarray, "flow layer"]:
        """Mean over cases."""
        return self.f1.mean(-1)

    @property
    def std(self) -> Float[np.ndarray, "flow layer"]:
        """Standard deviation over cases; the band of the paper's figure."""
        return self.f1.std(-1)


def knockout_sweep(
    lmm: LMM,
    cases: Cases,
    *,
    flows: Sequence[str] = FLOWS,
    layers: Sequence[int] | None = None,
    rows: Path | None = None,
    tick: Tick | None = None,
) -> KnockoutSweep:
    """Cut each flow from each block on, and score the answers.

    Scores are against the true objects where the cases have them, else against the uncut answer,
    as in the paper.

    **Arguments:**

    - `flows`, `layers`: what to cut, from where on; every block of a shallow model, ten evenly
        spread ones of a deep model by default.
    - `rows`: a JSONL file that takes every answer as it comes; a sweep that was cut short goes on
        from there.
    - `tick`: told after every generation of all cases.

    **Raises:** `ResultError` if `rows` belongs to another sweep.
    """
    chosen = tuple(sweep_layers(lmm.n_layers) if layers is None else layers)
    steps = [None, *((flow, layer) for flow in flows for layer in chosen)]
    log = SweepLog(rows, _setting(lmm, cases))
    told: list[list[str]] = []
    for done, step in enumerate(steps, 1):
        name = "uncut" if step is None else f"{step[0]}, {step[1]}:"
        graph = None if step is None else Knockout(step[0], f"{step[1]}:")
        if name not in log.known:
            made = answers(lmm, cases, graph)
            log.add(name, made)
        told.append(log.known[name])
        if tick is not None:
            tick(done, len(steps))
    baseline, *cut = [cases.f1(texts, told[0]) for texts in told]
    f1 = np.array(cut).reshape(len(flows), len(chosen), len(cases))
    reference = "the uncut answer" if cases.truth is None else "the true objects"
    return KnockoutSweep(
        f1, np.array(baseline), tuple(flows), chosen, lmm.n_layers, reference, cases.about
    )


def _setting(lmm: LMM, cases: Cases) -> str:
    digest = hashlib.sha256()
    for picture, prompt in zip(cases.pictures, cases.prompts, strict=True):
        digest.update(repr((picture.size, prompt)).encode() + picture.tobytes())
    return f"{lmm}; {len(cases)} cases {digest.hexdigest()[:16]}; {cases.max_new_tokens} tokens"


@final
class SweepLog:
    """The answers of a sweep by step, kept in a JSONL file if there is one.

    **Arguments:**

    - `path`: the file; None keeps them in memory alone.
    - `setting`: what the sweep is; a file of another setting is refused.

    **Raises:** `ResultError` if the file belongs to another sweep.
    """

    def __init__(self, path: Path | None, setting: str) -> None:
        self.path = path
        self.known: dict[str, list[str]] = {}
        if path is None:
            return
        if path.exists() and path.stat().st_size:
            self._read(path, setting)
        else:
            path.write_text(json.dumps({"format": 1, "setting": setting}) + "\n")

    def _read(self, path: Path, setting: str) -> None:
        head, *lines = path.read_text().splitlines()
        if json.loads(head).get("setting") != setting:
            raise ResultError(f"{path} belongs to another sweep; remove it or name another file")
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                continue  # the line on which an earlier sweep was cut short
            self.known[row["step"]] = row["answers"]

    def add(self, step: str, answers: list[str]) -> None:
        """Keep the answers of one step."""
        self.known[step] = answers
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, "answers": answers}) + "\n")
