"""Map uniform r in [0, 1) to a value on a scale, and back. Only the standard library is needed."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, overload

from bnlab.errors import UserError

__all__ = [
    "Integers",
    "Log",
    "LogIntegers",
    "OneMinusLog",
    "Scale",
    "Uniform",
    "log_uniform",
    "log_uniform_integer",
    "one_minus_log_uniform",
    "uniform",
    "uniform_integer",
]


class Generator(Protocol):
    """The common interface of `random.Random` and `numpy.random.Generator`."""

    def random(self) -> float: ...


@dataclass(frozen=True)
class Scale(ABC):
    """A parameter's values between two ends, and the coordinate r in which they are uniform.

    `value` maps r in [0, 1] to a value, `position` maps a value back to its r; `value(position(v)) == v` up to
    rounding, and exactly for integers. Both ends belong to the range.

    Raises:
        UserError: the ends are not finite or not in order, or the scale cannot hold them.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise UserError(f"A range must have finite ends, but got {self.low:g} to {self.high:g}.")
        if not self.low < self.high:
            raise UserError(
                f"A range must go from its lower to its higher end, but got {self.low:g} to {self.high:g}; "
                "a single value is fixed with key=value."
            )
        self._check()

    def _check(self) -> None:  # noqa: B027  # most scales hold any ends
        """Raise a UserError if the scale cannot hold the ends."""

    @abstractmethod
    def value(self, r: float) -> float: ...

    @abstractmethod
    def position(self, value: float) -> float: ...

    @overload
    def sample(self, generator: Generator) -> float: ...

    @overload
    def sample(self, generator: Generator, n: int) -> list[float]: ...

    def sample(self, generator: Generator, n: int | None = None) -> float | list[float]:
        """Draw a value at a uniformly random r, or a list of `n`."""
        if n is None:
            return self.value(generator.random())
        return [self.value(generator.random()) for _ in range(n)]

    def grid(self, n: int) -> list[float]:
        """Return `n` values at equal distances of r, both ends included; whole numbers are not repeated.

        Raises:
            UserError: n < 2.
        """
        if n < 2:
            raise UserError(f"A grid must have at least 2 values, its two ends, but got {n!r}.")
        return list(dict.fromkeys(self.value(i / (n - 1)) for i in range(n)))

    def _inside(self, value: float) -> float:
        return min(max(value, self.low), self.high)  # rounding may step over an end by one ulp


class Uniform(Scale):
    """value = low + r (high - low)."""

    def value(self, r: float) -> float:
        return self._inside(self.low + r * (self.high - self.low))

    def position(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)


class Log(Scale):
    """value = 10^u, u uniform from log10(low) to log10(high): every decade gets the same share (learning rates)."""

    def _check(self) -> None:
        if self.low <= 0:
            raise UserError(f"A log scale must have both ends > 0, but got {self.low:g} to {self.high:g}.")

    def value(self, r: float) -> float:
        start, stop = math.log10(self.low), math.log10(self.high)
        return self._inside(10 ** (start + r * (stop - start)))

    def position(self, value: float) -> float:
        start, stop = math.log10(self.low), math.log10(self.high)
        return (math.log10(value) - start) / (stop - start)


class OneMinusLog(Scale):
    """value = 1 - 10^u, u uniform from log10(1 - low) to log10(1 - high).

    This suits averages over the last 1 / (1 - value) steps (momentum, Adam's betas): 0.9 to 0.99 gets the same share as
    0.99 to 0.999. r grows with the value.
    """

    def _check(self) -> None:
        if not (self.low >= 0 and self.high < 1):
            raise UserError(
                f"A one_minus_log scale must have both ends in [0, 1), but got {self.low:g} to {self.high:g}."
            )

    def value(self, r: float) -> float:
        start, stop = math.log10(1 - self.low), math.log10(1 - self.high)
        return self._inside(1 - 10 ** (start + r * (stop - start)))

    def position(self, value: float) -> float:
        start, stop = math.log10(1 - self.low), math.log10(1 - self.high)
        return (math.log10(1 - value) - start) / (stop - start)


class _WholeNumbers(Scale):
    def __post_init__(self) -> None:
        super().__post_init__()
        for end in (self.low, self.high):
            if end != int(end):
                raise UserError(f"A range of integers must have integer ends, but got {self.low:g} to {self.high:g}.")
        object.__setattr__(self, "low", int(self.low))
        object.__setattr__(self, "high", int(self.high))


class Integers(_WholeNumbers):
    """value = low + floor(r (high - low + 1)): every integer, both ends included, gets the same share."""

    def value(self, r: float) -> int:
        return int(self._inside(self.low + math.floor(r * (self.high - self.low + 1))))

    def position(self, value: float) -> float:
        """Return the middle of the cell of `value`."""
        return (value - self.low + 0.5) / (self.high - self.low + 1)


class LogIntegers(_WholeNumbers):
    """value = round(10^u), u uniform from log10(low - 1/2) to log10(high + 1/2): the ends get whole cells too."""

    def _check(self) -> None:
        if self.low <= 0:
            raise UserError(f"A log scale must have both ends > 0, but got {self.low:g} to {self.high:g}.")

    def _ends(self) -> tuple[float, float]:
        return math.log10(self.low - 0.5), math.log10(self.high + 0.5)

    def value(self, r: float) -> int:
        start, stop = self._ends()
        return int(self._inside(math.floor(10 ** (start + r * (stop - start)) + 0.5)))

    def position(self, value: float) -> float:
        start, stop = self._ends()
        return (math.log10(value) - start) / (stop - start)


def uniform(low: float, high: float) -> Uniform:
    """`interval(low, high)`: see `Uniform`."""
    return Uniform(low, high)


def log_uniform(low: float, high: float) -> Log:
    """`tag(log, interval(low, high))`: see `Log`.

    >>> log_uniform(1e-4, 1).value(0.5)
    0.01
    """
    return Log(low, high)


def one_minus_log_uniform(low: float, high: float) -> OneMinusLog:
    """`tag(one_minus_log, interval(low, high))`: see `OneMinusLog`."""
    return OneMinusLog(low, high)


def uniform_integer(low: int, high: int) -> Integers:
    """`int(interval(low, high))`: see `Integers`."""
    return Integers(low, high)


def log_uniform_integer(low: int, high: int) -> LogIntegers:
    """`tag(log, int(interval(low, high)))`: see `LogIntegers`."""
    return LogIntegers(low, high)
