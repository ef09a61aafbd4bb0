"""Answers with and without direct access to the image, side by side."""

from typing import TYPE_CHECKING

import numpy as np

from ..experiments import QueryOnly
from ..metrics import mean_interval
from .style import COLOURS, MUTED, bootstrap, new_figure, tidy

if TYPE_CHECKING:
    import matplotlib.figure


def query_only(found: QueryOnly) -> "matplotlib.figure.Figure":
    """Mean object F1 of the normal answers, and of those from query tokens alone.

    ```py
    vi.plot.query_only(ex.query_only(lmm, cases))
    ```
    """
    figure = new_figure(6.4, 1.8)
    axes = figure.subplots()
    arms = {"normal": found.f1_normal, "query tokens only": found.f1_query_only}
    means = np.array([f1.mean() for f1 in arms.values()])
    ends = np.array([mean_interval(f1) for f1 in arms.values()])
    whiskers = np.nan_to_num(np.abs(ends - means[:, None])).T
    axes.barh(
        [1, 0], means, xerr=whiskers, color=[MUTED, COLOURS["query"]], height=0.62,
        error_kw={"capsize": 2},
    )  # fmt: skip
    axes.set_yticks([1, 0], list(arms))
    axes.set_xlim(0, 1.05)
    spread = bootstrap(len(found.normal))
    tidy(axes, f"object F1 against {found.reference}\n{spread}".rstrip(), "")
    return figure
