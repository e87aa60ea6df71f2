"""Parameters as Optuna's distributions, so that its samplers, its storage and its plots see them on their scale."""

from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from bnlab.search.scales import Integers, Log, LogIntegers, OneMinusLog, Uniform
from bnlab.search.space import Choice, Parameter

__all__ = ["distribution_of", "from_optuna", "name_in_optuna", "position", "to_optuna", "value_at"]


def name_in_optuna(parameter: Parameter) -> str:
    """Its key, or "1 - key" on the one_minus_log scale: Optuna knows the logarithm only, so that it searches 1 - β."""
    return f"1 - {parameter.key}" if isinstance(parameter.values, OneMinusLog) else parameter.key


def distribution_of(parameter: Parameter) -> BaseDistribution:
    values = parameter.values
    if isinstance(values, OneMinusLog):
        return FloatDistribution(1 - values.high, 1 - values.low, log=True)
    if isinstance(values, Log | Uniform):
        return FloatDistribution(values.low, values.high, log=isinstance(values, Log))
    if isinstance(values, LogIntegers | Integers):
        return IntDistribution(int(values.low), int(values.high), log=isinstance(values, LogIntegers))
    assert isinstance(values, Choice)
    if values.step is not None:
        return IntDistribution(min(values.values), max(values.values), step=values.step)
    return CategoricalDistribution(values.texts)


def from_optuna(parameter: Parameter, value: Any) -> Any:
    """The value in the config for a value in the study."""
    if isinstance(parameter.values, OneMinusLog):
        return min(max(1 - value, parameter.values.low), parameter.values.high)
    return value


def to_optuna(parameter: Parameter, value: Any) -> Any:
    """The value in the study for a value in the config."""
    if isinstance(parameter.values, OneMinusLog):
        distribution = distribution_of(parameter)
        assert isinstance(distribution, FloatDistribution)
        return min(max(1 - value, distribution.low), distribution.high)
    return value


def value_at(distribution: BaseDistribution, r: float) -> Any:
    """The value of a distribution at r in [0, 1), the coordinate in which its values are spread evenly."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[min(int(r * len(distribution.choices)), len(distribution.choices) - 1)]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.single():
        return distribution.low
    if isinstance(distribution, IntDistribution) and distribution.step != 1:
        return distribution.low + distribution.step * _steps(distribution).value(r)
    return _scale(distribution).value(r)


def position(distribution: BaseDistribution, value: Any) -> float:
    """The r of a value: `value_at(distribution, position(distribution, value)) == value`, up to rounding."""
    if isinstance(distribution, CategoricalDistribution):
        return (distribution.choices.index(value) + 0.5) / len(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.single():
        return 0.5
    if isinstance(distribution, IntDistribution) and distribution.step != 1:
        return _steps(distribution).position((value - distribution.low) // distribution.step)
    return _scale(distribution).position(value)


def _steps(distribution: IntDistribution) -> Integers:
    return Integers(0, (distribution.high - distribution.low) // distribution.step)


def _scale(distribution: FloatDistribution | IntDistribution) -> Uniform | Log | Integers | LogIntegers:
    if isinstance(distribution, IntDistribution):
        return (LogIntegers if distribution.log else Integers)(distribution.low, distribution.high)
    return (Log if distribution.log else Uniform)(distribution.low, distribution.high)
