"""Off and on over the same questions: a paired difference, its interval, and an exact test."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float

from ..errors import InputError

DRAWS = 10_000
"""How many bootstrap samples an interval stands on."""


@final
@dataclass(frozen=True)
class PairedDifference:
    """What changed from off to on, over the same cases.

    **Attributes:**

    - `off`, `on`: the statistic of each.
    - `low`, `high`: the 95 % interval of `on - off`: paired percentile bootstrap over cases.
    - `cases`: how many there are.
    - `won`, `lost`: cases that are better, and worse, than off.
    - `p`: the exact two-sided McNemar test of `won` against `lost` (a binomial test with 1/2): the
        probability of a split at least this uneven if the edit changed nothing on average.
    """

    off: float
    on: float
    low: float
    high: float
    cases: int
    won: int
    lost: int
    p: float

    @property
    def difference(self) -> float:
        """`on - off`."""
        return self.on - self.off

    def __str__(self) -> str:
        """As in `+0.012 [-0.004, +0.028]`."""
        return f"{self.difference:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def paired_difference(
    off: Sequence[float] | Float[np.ndarray, " case"],
    on: Sequence[float] | Float[np.ndarray, " case"],
    statistic: Callable[..., Float[np.ndarray, "..."]] = np.mean,
    *,
    seed: int = 0,
) -> PairedDifference:
    """Compare two arms case by case.

    ```python
    >>> from vsink_interp.metrics import paired_difference
    >>> found = paired_difference(off=[1.0, 0.0, 0.0, 1.0], on=[1.0] * 4)
    >>> found.difference, found.won, found.lost
    (0.5, 2, 0)

    ```

    **Arguments:**

    - `off`, `on`: one number for each case, higher is better: right or wrong as 1 or 0, an F1.
    - `statistic`: of the numbers of one arm; takes `axis`.
    - `seed`: of the bootstrap.

    **Raises:** `InputError` without cases, or for arms of unequal length.
    """
    from scipy.stats import bootstrap

    a, b = np.asarray(off, float), np.asarray(on, float)
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise InputError(f"off and on are one number a case; got shapes {a.shape} and {b.shape}")
    won, lost = int((b > a).sum()), int((b < a).sum())
    ends = (statistic(b, axis=0) - statistic(a, axis=0),) * 2
    if (won or lost) and len(a) > 1:
        drawn = bootstrap(
            (a, b),
            lambda x, y, axis: statistic(y, axis=axis) - statistic(x, axis=axis),
            paired=True,
            vectorized=True,
            n_resamples=DRAWS,
            method="percentile",
            rng=np.random.default_rng(seed),
            batch=max(1, 2**22 // len(a)),
        )
        ends = drawn.confidence_interval
    low, high = map(float, ends)
    arms = float(statistic(a, axis=0)), float(statistic(b, axis=0))
    return PairedDifference(*arms, low, high, len(a), won, lost, mcnemar(won, lost))


def mcnemar(won: int, lost: int) -> float:
    """The exact two-sided McNemar test: a binomial test of `won` of `won + lost` with 1/2.

    ```python
    >>> from vsink_interp.metrics import mcnemar
    >>> mcnemar(won=5, lost=1)
    0.21875

    ```
    """
    from scipy.stats import binomtest

    return float(binomtest(won, won + lost).pvalue) if won or lost else 1.0


def mean_interval(values: Float[np.ndarray, " case"], draws: int = 2000) -> tuple[float, float]:
    """The 95 % interval of a mean: percentile bootstrap over cases; NaN for less than two.

    For tables and figures of many means; intervals of equally many cases draw the same ones.

    ```python
    >>> import numpy as np
    >>> from vsink_interp.metrics import mean_interval
    >>> mean_interval(np.array([1.0, 1.0, 1.0]))
    (1.0, 1.0)

    ```

    **Arguments:**

    - `values`: one number for each case, in any unit; the interval has the same.
    - `draws`: how many bootstrap samples the interval stands on.
    """
    low, high = pooled_interval(values, np.ones(len(values)), draws)
    return float(low), float(high)


def pooled_interval(
    sums: Float[np.ndarray, "*group case"],
    counts: Float[np.ndarray, " case"],
    draws: int = 2000,
) -> Float[np.ndarray, "*group end=2"]:
    """As `mean_interval`, of means over what cases have unequally much of, as tokens of an answer.

    Whole cases are drawn, because what one case has is alike.

    ```python
    >>> import numpy as np
    >>> from vsink_interp.metrics import pooled_interval
    >>> pooled_interval(np.array([[2.0, 4.0]]), counts=np.array([1.0, 2.0]))
    array([[2., 2.]])

    ```

    **Arguments:**

    - `sums`: of each case the sum of what it has, in any unit; the interval has the same.
    - `counts`: of each case how many these are, at least one.

    **Returns:** the low and the high end; NaN for less than two cases.
    """
    n = len(counts)
    if n < 2:
        return np.full((*sums.shape[:-1], 2), np.nan)
    drawn = np.random.default_rng(0).integers(n, size=(draws, n))
    places = drawn + n * np.arange(draws)[:, None]
    often = np.bincount(places.ravel(), minlength=draws * n).reshape(draws, n).T
    return np.moveaxis(np.quantile(sums @ often / (counts @ often), [0.025, 0.975], axis=-1), 0, -1)
