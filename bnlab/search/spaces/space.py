"""Define the space of a search: its parameters and the points they span."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bnlab.errors import UserError
from bnlab.search.spaces.parameter import Choice, Parameter, Point
from bnlab.search.spaces.scales import Integers, LogIntegers, Scale

__all__ = ["Space"]

_MAX_GRID = 1_000_000


@dataclass(frozen=True)
class Space:
    """Parameters in display order; `constants` has the values of the conditions' keys that do not vary."""

    parameters: tuple[Parameter, ...]
    constants: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        keys = {parameter.key for parameter in self.parameters}
        for parameter in self.parameters:
            if [other.key for other in self.parameters].count(parameter.key) > 1:
                raise UserError(f"`{parameter.key}` is searched twice: name it once.")
            condition = parameter.condition
            if condition and condition.key not in keys and condition.key not in self.constants:
                raise UserError(
                    f"`{parameter.key}` is for '{condition}', but `{condition.key}` is neither a setting nor searched."
                )
        self.in_order_of_dependence()

    def __getitem__(self, key: str) -> Parameter:
        return next(parameter for parameter in self.parameters if parameter.key == key)

    def in_order_of_dependence(self) -> list[Parameter]:
        """Return the parameters, each after the one that its condition depends on."""
        remaining, ordered = list(self.parameters), []
        while remaining:
            waiting = {parameter.key for parameter in remaining}
            ready = [p for p in remaining if p.condition is None or p.condition.key not in waiting]
            if not ready:
                raise UserError(
                    f"The conditions of {', '.join(f'`{p.key}`' for p in remaining)} form a cycle: remove one of them."
                )
            ordered += ready
            remaining = [p for p in remaining if p not in ready]
        return ordered

    def is_active(self, parameter: Parameter, point: Mapping[str, Any]) -> bool:
        """Return whether `parameter` exists at `point`, which holds the values of the parameters it depends on."""
        condition = parameter.condition
        if condition is None:
            return True
        if condition.key in point:
            return condition.holds(self[condition.key].value(point[condition.key]))
        if any(other.key == condition.key for other in self.parameters):
            return False  # searched, but not active here itself
        return condition.holds(self.constants[condition.key])

    def where_active(self, parameter: Parameter) -> Point:
        """Return a point at which `parameter` exists, with values only for the parameters that this depends on."""
        condition = parameter.condition
        if condition is None or all(other.key != condition.key for other in self.parameters):
            return {}
        asked = self[condition.key]
        elements = asked.values.elements if isinstance(asked.values, Choice) else condition.values
        element = next(element for element in elements if condition.holds(asked.value(element)))
        return {**self.where_active(asked), asked.key: element}

    def draw(self, value_of: Callable[[Parameter], Any]) -> Point:
        """Return a point with `value_of` each active parameter, called in order of dependence."""
        point: Point = {}
        for parameter in self.in_order_of_dependence():
            if self.is_active(parameter, point):
                point[parameter.key] = value_of(parameter)
        return {parameter.key: point[parameter.key] for parameter in self.parameters if parameter.key in point}

    def overrides(self, point: Mapping[str, Any]) -> list[str]:
        """Return the overrides that set the config to `point`, in the order of the parameters."""
        return [parameter.override(point[parameter.key]) for parameter in self.parameters if parameter.key in point]

    @property
    def may_repeat(self) -> bool:
        """Return whether two draws can be the same, which a continuous parameter without a condition rules out."""
        return not any(p.condition is None and _is_continuous(p.values) for p in self.parameters)

    def configurations(self, limit: int) -> list[Point] | None:
        """Return all points of the space, or None if there are more than `limit`."""
        if any(_is_continuous(parameter.values) for parameter in self.parameters):
            return None
        points = list(itertools.islice(self._combinations(self.in_order_of_dependence(), {}), limit + 1))
        return None if len(points) > limit else points

    def grid(self) -> list[Point]:
        """Return every combination, the last parameter changing fastest, without parameters whose condition fails.

        Raises:
            UserError: a parameter is an interval, or there are too many combinations.
        """
        for parameter in self.parameters:
            if isinstance(parameter.values, Scale):
                low, high = parameter.values.low, parameter.values.high
                raise UserError(
                    f"search=grid needs single values, but `{parameter.key}` is the interval {low:g} to {high:g}: "
                    f"list them ({parameter.key}=a,b,c), or take search=random."
                )
        points = list(itertools.islice(self._combinations(self.in_order_of_dependence(), {}), _MAX_GRID + 1))
        if len(points) > _MAX_GRID:
            raise UserError(f"The grid has more than {_MAX_GRID:,} points: take search=random with fewer trials.")
        return points

    def _combinations(self, parameters: Sequence[Parameter], point: Point) -> Iterator[Point]:
        if not parameters:
            yield {parameter.key: point[parameter.key] for parameter in self.parameters if parameter.key in point}
            return
        parameter, rest = parameters[0], parameters[1:]
        if not self.is_active(parameter, point):
            yield from self._combinations(rest, point)
            return
        values = parameter.values
        for element in values.elements if isinstance(values, Choice) else range(int(values.low), int(values.high) + 1):
            yield from self._combinations(rest, {**point, parameter.key: element})


def _is_continuous(values: Scale | Choice) -> bool:
    return not isinstance(values, Choice | Integers | LogIntegers)
