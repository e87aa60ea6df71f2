"""Convert parameters to Optuna's distributions, so that its samplers, storage and plots see them on their scale."""

from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from bnlab.search.spaces.parameter import Choice, Parameter
from bnlab.search.spaces.scales import Integers, Log, LogIntegers, OneMinusLog, Uniform

__all__ = ["distribution_of", "from_optuna", "holds", "name_in_optuna", "position", "to_optuna", "value_at"]


def name_in_optuna(parameter: Parameter) -> str:
    """Return the key, or "1 - key" on the one_minus_log scale: Optuna has only the logarithm, so it searches 1 - β."""
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
    """Convert a value in the study to the value in the config."""
    if isinstance(parameter.values, OneMinusLog):
        return min(max(1 - value, parameter.values.low), parameter.values.high)
    return value


def to_optuna(parameter: Parameter, value: Any) -> Any:
    """Convert a value in the config to the value in the study."""
    if isinstance(parameter.values, OneMinusLog):
        distribution = distribution_of(parameter)
        assert isinstance(distribution, FloatDistribution)
        return min(max(1 - value, distribution.low), distribution.high)
    return value


def value_at(distribution: BaseDistribution, r: float) -> Any:
    """Return the value of a distribution at r in [0, 1), in which its values are uniform."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[min(int(r * len(distribution.choices)), len(distribution.choices) - 1)]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.single():
        return distribution.low
    if distribution.step is None or distribution.log:
        return _scale(distribution).value(r)
    return min(distribution.low + distribution.step * _steps(distribution).value(r), distribution.high)


def position(distribution: BaseDistribution, value: Any) -> float:
    """Return the r of a value: `value_at(distribution, position(distribution, value)) == value`, up to rounding."""
    if isinstance(distribution, CategoricalDistribution):
        return (distribution.choices.index(value) + 0.5) / len(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.single():
        return 0.5
    if distribution.step is None or distribution.log:
        return _scale(distribution).position(value)
    return _steps(distribution).position(_step_of(distribution, value))


def holds(distribution: BaseDistribution, value: Any) -> bool:
    """Return whether `value` is one of the distribution's values."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if not isinstance(value, int | float) or not distribution.low <= value <= distribution.high:
        return False
    if distribution.step is None:
        return True
    return abs((value - distribution.low) / distribution.step - _step_of(distribution, value)) < 1e-8


def _scale(distribution: FloatDistribution | IntDistribution) -> Uniform | Log | LogIntegers:
    if isinstance(distribution, IntDistribution):
        return LogIntegers(distribution.low, distribution.high)
    return (Log if distribution.log else Uniform)(distribution.low, distribution.high)


def _steps(distribution: FloatDistribution | IntDistribution) -> Integers:
    """Return the range of the number of steps from the lower end, which are equally probable."""
    return Integers(0, _step_of(distribution, distribution.high))


def _step_of(distribution: FloatDistribution | IntDistribution, value: Any) -> int:
    """Return the number of steps from the lower end to `value`."""
    assert distribution.step is not None
    distance = value - distribution.low
    if isinstance(distribution, IntDistribution):
        return distance // distribution.step
    return round(distance / distribution.step)
