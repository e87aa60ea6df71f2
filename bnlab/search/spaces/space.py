"""The space of a search: which settings vary, over what, and under which condition."""

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from bnlab.errors import UserError
from bnlab.rules import RULES
from bnlab.search.spaces.scales import Integers, Log, LogIntegers, OneMinusLog, Scale, Uniform

__all__ = ["Choice", "Condition", "Parameter", "Point", "Space"]

Point = dict[str, Any]
"""For each parameter that is active there, by its key: a number on a scale, or the text of a choice."""

_MAX_GRID = 1_000_000


@dataclass(frozen=True)
class Choice:
    """Some values in order, and how each is written in an override.

    A point, and the study, have the texts: they tell apart what Python or Optuna takes for equal (1, 1.0 and true), and
    stand for what a storage does not keep (lists, dictionaries). Where the values are integers at equal distances,
    `step` is that distance; they have an order then, and the integers themselves are kept.
    """

    values: tuple[Any, ...]
    texts: tuple[str, ...]
    step: int | None = None

    @property
    def elements(self) -> tuple[Any, ...]:
        """What a point has of them."""
        return self.texts if self.step is None else self.values

    def value(self, element: Any) -> Any:
        return self.values[self.elements.index(element)]


@dataclass(frozen=True)
class Condition:
    """`key` has one of `choices`, written as in an override."""

    key: str
    choices: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Condition":
        key, _, choices = text.partition("=")
        return cls(key.strip(), tuple(choice.strip() for choice in choices.split("|")))

    def __str__(self) -> str:
        return f"{self.key}={'|'.join(self.choices)}"

    def holds(self, value: Any) -> bool:
        return any(_are_equal(value, choice) for choice in self.values)

    @cached_property
    def values(self) -> list[Any]:
        """The choices as the values that an override would give."""
        return [_value_of(choice) for choice in self.choices]


@dataclass(frozen=True)
class Parameter:
    """A setting that varies.

    Attributes:
        key: its name in the config, such as optimizer.lr.
        values: a scale or a choice.
        condition: where it exists; None for everywhere.
        override_key: `key`, with what an override puts before it (+ or ++) or after it (@package).
    """

    key: str
    values: Scale | Choice
    condition: Condition | None = None
    override_key: str = ""

    def value(self, element: Any) -> Any:
        """The value that the config gets for what a point has."""
        return self.values.value(element) if isinstance(self.values, Choice) else element

    def override(self, value: Any) -> str:
        """`key=value`; a float is written so that reading it gives the same float."""
        text = value if isinstance(value, str) else repr(value)
        return f"{self.override_key or self.key}={text}"

    def check_rule(self) -> None:
        """Hold both ends, or each choice, against the rule of the setting."""
        rule = RULES.get(self.key)
        if rule is not None:
            values = self.values
            for value in values.values if isinstance(values, Choice) else (values.low, values.high):
                if not is_interpolation(value):  # known in a composed job only
                    rule.check(self.key, value)


@dataclass(frozen=True)
class Space:
    """Parameters in the order in which they are shown; `constants` is what a condition's key is where it is fixed."""

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
        """The parameters, each after the one its condition asks about."""
        remaining, ordered = list(self.parameters), []
        while remaining:
            waiting = {parameter.key for parameter in remaining}
            ready = [p for p in remaining if p.condition is None or p.condition.key not in waiting]
            if not ready:
                raise UserError(f"The conditions of {', '.join(f'`{p.key}`' for p in remaining)} go round in a circle.")
            ordered += ready
            remaining = [p for p in remaining if p not in ready]
        return ordered

    def is_active(self, parameter: Parameter, point: Mapping[str, Any]) -> bool:
        """Whether `parameter` exists at `point`, which has the values of the parameters it depends on."""
        condition = parameter.condition
        if condition is None:
            return True
        if condition.key in point:
            return condition.holds(self[condition.key].value(point[condition.key]))
        if any(other.key == condition.key for other in self.parameters):
            return False  # searched, but not active here itself
        return condition.holds(self.constants[condition.key])

    def where_active(self, parameter: Parameter) -> Point:
        """What the parameters that its condition asks about, and theirs, are where `parameter` exists."""
        condition = parameter.condition
        if condition is None or all(other.key != condition.key for other in self.parameters):
            return {}
        asked = self[condition.key]
        elements = asked.values.elements if isinstance(asked.values, Choice) else condition.values
        element = next(element for element in elements if condition.holds(asked.value(element)))
        return {**self.where_active(asked), asked.key: element}

    def draw(self, value_of: Callable[[Parameter], Any]) -> Point:
        """A point: `value_of` is asked for each parameter that is active, in order of dependence."""
        point: Point = {}
        for parameter in self.in_order_of_dependence():
            if self.is_active(parameter, point):
                point[parameter.key] = value_of(parameter)
        return {parameter.key: point[parameter.key] for parameter in self.parameters if parameter.key in point}

    def overrides(self, point: Mapping[str, Any]) -> list[str]:
        """What sets the config to `point`, in the order of the parameters."""
        return [parameter.override(point[parameter.key]) for parameter in self.parameters if parameter.key in point]

    @property
    def may_repeat(self) -> bool:
        """Whether two draws can be the same: not where a number on a continuous scale is in each."""
        return not any(p.condition is None and _is_continuous(p.values) for p in self.parameters)

    def configurations(self, limit: int) -> list[Point] | None:
        """All of its points, None where there are more than `limit`."""
        if any(_is_continuous(parameter.values) for parameter in self.parameters):
            return None
        points = list(itertools.islice(self._combinations(self.in_order_of_dependence(), {}), limit + 1))
        return None if len(points) > limit else points

    def grid(self) -> list[Point]:
        """Every combination, the last parameter changing fastest; a condition that fails leaves a parameter out.

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


def parameter_of(override: Any, seed: int) -> Parameter:
    """The parameter that a parsed sweep override (Hydra's `Override`) describes; `seed` is for shuffle().

    Raises:
        UserError: a tag that means nothing, or an impossible range.
    """
    key = override.key_or_group
    # Hydra's tags are for the sweeper to give a meaning to: a scale, or key=choice|choice for a condition.
    tags = set(getattr(override.value(), "tags", ()))
    conditions = [Condition.parse(tag) for tag in tags if "=" in tag]
    scales = sorted(tag for tag in tags if "=" not in tag)
    if len(conditions) > 1:
        raise UserError(f"`{key}` has {len(conditions)} conditions: one is possible, '{conditions[0].key}=a|b'.")
    if len(scales) > 1 or any(tag not in ("log", "one_minus_log") for tag in scales):
        raise UserError(
            f"`{key}` has the tag {', '.join(map(repr, scales))}: a tag is log, one_minus_log, or a condition such as "
            "'optimizer=adam'."
        )
    scale = scales[0] if scales else None
    if override.is_interval_sweep():
        values: Scale | Choice = _scale_of(key, override.value(), scale)
    elif scale is not None:
        raise UserError(f"`{key}` has the tag {scale!r}, which is for an interval, but its values are listed.")
    else:
        values = _choice_of(key, override, seed)
    return Parameter(key, values, conditions[0] if conditions else None, override.get_key_element())


def fixed_parameter(override: Any) -> Parameter:
    """A parameter that has one value wherever it exists, from a parsed override that is no sweep."""
    text = str(override.input_line).partition("=")[2]
    return Parameter(override.key_or_group, Choice((_value_of(text),), (text,)), None, override.get_key_element())


def _scale_of(key: str, interval: Any, tag: str | None) -> Scale:
    low, high = interval.start, interval.end
    whole = isinstance(low, int) and isinstance(high, int)
    if whole and tag == "one_minus_log":
        raise UserError(f"`{key}`: one_minus_log is for numbers below 1, not for integers.")
    kinds: dict[str | None, type[Scale]] = {
        None: Integers if whole else Uniform,
        "log": LogIntegers if whole else Log,
        "one_minus_log": OneMinusLog,
    }
    try:
        return kinds[tag](low, high)
    except UserError as error:
        raise UserError(f"`{key}`: {error}") from None


def _choice_of(key: str, override: Any, seed: int) -> Choice:
    shuffled = getattr(override.value(), "shuffle", False)
    if shuffled:  # Hydra's order would be another one each time that the space is read
        override = replace(override, _value=replace(override.value(), shuffle=False))
    texts, values = [], []
    for text, raw in zip(override.sweep_string_iterator(), override.sweep_iterator(), strict=True):
        value = raw if raw is None or isinstance(raw, bool | int | float) else _value_of(text)
        if isinstance(raw, str):
            if _sets(raw, raw):
                text = raw  # Hydra's has more backslashes than are needed
            elif not _sets(text, raw):  # of str(1, 2), whose texts Hydra writes without quotes
                text, value = QuotedString(raw, Quote.single).with_quotes(), raw
        texts.append(text)
        values.append(value)
    if not texts:
        raise UserError(f"`{key}` has no values to choose from.")
    if len(set(map(repr, values))) < len(values):
        raise UserError(f"`{key}` lists a value twice: {', '.join(texts)}.")
    if shuffled:
        order = random.Random(f"{seed} {key}").sample(range(len(texts)), len(texts))
        return Choice(tuple(values[i] for i in order), tuple(texts[i] for i in order))
    step = None
    if override.is_range_sweep():
        numbers = [value for value in values if isinstance(value, int)]
        if len(numbers) == len(values) > 1:
            step = abs(numbers[1] - numbers[0])
    return Choice(tuple(values), tuple(texts), step)


def _sets(text: str, value: str) -> bool:
    """Whether an override `key=text` sets `value`."""
    try:
        return bool(OverridesParser.create().parse_override(f"key={text}").value() == value)
    except HydraException:
        return False


def _value_of(text: str) -> Any:
    """What an override `key=text` sets; lists and dictionaries as Python's."""
    try:
        return OverridesParser.create().parse_override(f"key={text}").value()
    except HydraException:
        return text


def _are_equal(a: Any, b: Any) -> bool:
    """As settings: true is not 1, but 1.0 is."""
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def _is_continuous(values: Scale | Choice) -> bool:
    return not isinstance(values, Choice | Integers | LogIntegers)


def is_interpolation(value: Any) -> bool:
    """Whether it, or an item of it, is worked out in a composed config only."""
    return "${" in str(value)
