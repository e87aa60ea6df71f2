"""Means over seeds, and confidence intervals for the difference of two means."""

import math
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, stdev
from typing import Any

__all__ = ["CONFIDENCE", "Difference", "Estimate", "difference", "estimate"]

CONFIDENCE = 0.95  # of the intervals


@dataclass(frozen=True)
class Estimate:
    """The mean of `number` values and their standard deviation (with n - 1), which is None for a single value."""

    mean: float
    deviation: float | None
    number: int


@dataclass(frozen=True)
class Difference:
    """A difference of means with Student's interval from low to high, both None if there are too few values.

    Attributes:
        pairs: the number of seeds that both sides share if the difference is taken seed by seed; None for Welch's
            interval for independent samples.
    """

    mean: float
    low: float | None = None
    high: float | None = None
    pairs: int | None = None


def estimate(values: Collection[float]) -> Estimate | None:
    """
        mean = sum(x) / n,   deviation = sqrt(sum((x - mean)^2) / (n - 1))

    None is returned if there are no values.
    """
    if not values:
        return None
    return Estimate(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def difference(of: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """Return by how much the mean of `of` exceeds that of `baseline`, both by seed; None if one has no value.

    If both have two or more seeds in common, these are paired, so that the effect of a seed on both sides cancels. With
    d the differences seed by seed:
        mean(d) ± t(n - 1) s(d) / sqrt(n)
    Otherwise, with two or more values on each side, the interval is Welch's:
        mean(a) - mean(b) ± t(ν) sqrt(u + v),   u = s(a)^2 / n_a,   v = s(b)^2 / n_b,
        ν = (u + v)^2 / (u^2 / (n_a - 1) + v^2 / (n_b - 1))
    t(ν) is the quantile of Student's distribution that leaves (1 - `CONFIDENCE`) / 2 above it.
    """
    if not of or not baseline:
        return None
    from scipy import stats  # whose import takes longer than a table without intervals

    shared = [seed for seed in of if seed in baseline]
    if len(shared) > 1:
        a, b = [of[seed] for seed in shared], [baseline[seed] for seed in shared]
        return _with_interval(stats.ttest_rel, a, b, pairs=len(shared))
    a, b = list(of.values()), list(baseline.values())
    if len(a) < 2 or len(b) < 2:
        return Difference(fmean(a) - fmean(b))
    return _with_interval(partial(stats.ttest_ind, equal_var=False), a, b, pairs=None)


def _with_interval(
    test: Callable[..., Any], a: Sequence[float], b: Sequence[float], *, pairs: int | None
) -> Difference:
    mean = fmean(a) - fmean(b)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)  # where the values are the same
        interval = test(a, b).confidence_interval(CONFIDENCE)
    low, high = float(interval.low), float(interval.high)
    if math.isnan(low):  # nothing varies, and the interval is a point
        low = high = mean
    return Difference(mean, low, high, pairs)
