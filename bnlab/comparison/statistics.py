"""Means over seeds, and confidence intervals for the difference of two means."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from statistics import fmean

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
    mean = fmean(values)
    return Estimate(mean, math.sqrt(_variance(values)) if len(values) > 1 else None, len(values))


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
    shared = [seed for seed in of if seed in baseline]
    if len(shared) > 1:
        differences = [of[seed] - baseline[seed] for seed in shared]
        mean, squared_error = fmean(differences), _variance(differences) / len(shared)
        return _with_interval(mean, squared_error, len(shared) - 1, len(shared))
    a, b = of.values(), baseline.values()
    mean = fmean(a) - fmean(b)
    if len(a) < 2 or len(b) < 2:
        return Difference(mean)
    u, v = _variance(a) / len(a), _variance(b) / len(b)
    freedom = (u + v) ** 2 / (u**2 / (len(a) - 1) + v**2 / (len(b) - 1)) if u + v > 0 else 1
    return _with_interval(mean, u + v, freedom, None)


def _variance(values: Collection[float]) -> float:
    mean = fmean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _with_interval(mean: float, squared_error: float, freedom: float, pairs: int | None) -> Difference:
    from scipy.special import stdtrit  # imports much less than scipy.stats

    half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * math.sqrt(squared_error)
    return Difference(mean, mean - half, mean + half, pairs)
