"""Measure a reproduction a few cases at a time, written as they come, gone on with later."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from hashlib import sha256
from typing import Any, TypeAlias, final

from PIL import Image

from ..errors import CapabilityError, InputError
from ..experiments import Cases, ObjectMasks, Quizzes
from ..model import LMM, digest, fingerprint
from ..model.progress import shown
from ..storage import log_within, opened_log
from .entry import Measured, Setup
from .measurements import CASE, LEFT_OUT, Row
from .sources import by_image, captions

Some: TypeAlias = Cases | Quizzes | tuple[ObjectMasks, ...]
"""A few cases: to be described, with questions, or with the masks of their objects."""
KEPT = 2
"""How many images are kept for figures."""
NAMED = 8
"""How many cases are named that were left out for one reason."""
SIDE = 448
"""The longest side of a kept image, in pixels."""


@final
@dataclass(frozen=True)
class OverCases:
    """Measures an entry a few cases at a time.

    **Attributes:**

    - `measure`: the rows of a few cases; their `case` counts from 0 within these. A case that
        cannot be measured has one that says why under `LEFT_OUT`, and no value.
    - `quick`, `full`: how many cases there are by default.
    - `at_once`: how many are measured together.
    - `source`: where they come from.
    """

    measure: Callable[[LMM, Any, Setup], Iterable[Row]]
    _: KW_ONLY
    quick: int
    full: int
    at_once: int = 4
    source: Callable[[Setup, int, int], Iterator[Any]] = captions

    def __call__(self, name: str, lmm: LMM, setup: Setup) -> Measured:
        """The rows of all cases, and the first images."""
        count = setup.count(self.quick, self.full)
        if count < 1:
            raise InputError(f"limit={count}: measure at least one case")
        tell, first = shown(setup.tick, name), 0
        steps: list[tuple[str, int]] = []
        data = sha256()
        images: dict[int, Image.Image] = {}
        log = log_within(setup.log, f"{name}.rows.jsonl")
        with opened_log(log, about(name, lmm, setup)) as kept:
            for some in self.source(setup, count, self.at_once):
                found = _images(some)
                images |= {
                    first + i: _small(one) for i, one in enumerate(found) if first + i < KEPT
                }
                step = f"{first}: {_key(some)}"
                data.update(step.encode())
                if kept.wants(step):
                    kept.add(step, list(self.measure(lmm, some, setup)))
                steps.append((step, first))
                first += len(found)
                tell(min(first, count), count)
        found = [_placed(row, first) for step, first in steps for row in kept.known[step]]
        rows = tuple(row for row in found if LEFT_OUT not in row)
        return Measured(rows, images, data.hexdigest()[:16], _left_out(found, first))


def about(name: str, lmm: LMM, setup: Setup) -> dict[str, Any]:
    """What the rows of a reproduction depend on."""
    settings = {"name": name, "seed": setup.seed, "quick": setup.quick}
    if server := lmm.backend.server(None):
        settings["server"] = server.host
    return {**settings, "sinks": _sinks(lmm), **fingerprint(lmm)}


def _sinks(lmm: LMM) -> str:
    try:
        return repr(lmm.sinks)
    except CapabilityError:
        return "none"


def _placed(row: Row, first: int) -> Row:
    return {**row, CASE: row[CASE] + first} if CASE in row else dict(row)


def _left_out(rows: Sequence[Row], count: int) -> str:
    """Which of so many cases were not measured, reason by reason."""
    why: dict[str, list[str]] = {}
    for row in rows:
        if reason := row.get(LEFT_OUT):
            why.setdefault(reason, []).append(str(row[CASE]))
    return "; ".join(
        f"{len(cases)} of {count} cases ({', '.join(cases[:NAMED])}"
        f"{', …' * (len(cases) > NAMED)}): {reason}"
        for reason, cases in why.items()
    )


def _images(some: Some) -> list[Image.Image]:
    if isinstance(some, Cases | Quizzes):
        return list(some.images)
    return [here[0].image for here in by_image(some)]


def _key(some: Some) -> str:
    if isinstance(some, Cases):
        pairs = zip(some.images, some.prompts, strict=True)
    elif isinstance(some, Quizzes):
        pairs = zip(some.images, map(repr, some.questions), strict=True)
    else:
        pairs = ((one.image, (one.words, one.mask.tobytes())) for one in some)
    return digest(([image], asked) for image, asked in pairs)


def _small(image: Image.Image) -> Image.Image:
    shown = image.copy()
    shown.thumbnail((SIDE, SIDE))
    return shown
