"""How far long work has come: a bar in a terminal or a notebook, unless told otherwise."""

import os
from collections.abc import Callable
from typing import Any, TypeAlias

from tqdm.auto import tqdm

Tick: TypeAlias = Callable[[int, int], None]
"""Called with the steps done and their number."""


def silent(done: int, total: int) -> None:
    """A `tick` that shows nothing: for work within work that has a bar of its own."""


def shown(tick: Tick | None, what: str) -> Tick:
    """The function to tell how far work has come: the one given, or one that draws tqdm's bar.

    A bar is drawn in notebooks and where stderr is a terminal. The environment variable
    `TQDM_DISABLE=1` turns all bars off, and a `tick` of one's own the one of its call.

    **Arguments:**

    - `what`: stands before the bar.
    """
    if tick is not None:
        return tick
    bars: list[Any] = []

    def draw(done: int, total: int) -> None:
        if not bars:
            disable = True if os.environ.get("TQDM_DISABLE", "0") not in ("", "0") else None
            bars.append(tqdm(total=total, desc=what, disable=disable))
        (bar,) = bars
        bar.total = total
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return draw
