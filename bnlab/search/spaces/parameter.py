"""Describe a setting that a search varies: its values, and where it exists."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from bnlab.rules import RULES
from bnlab.search.spaces.scales import Scale

__all__ = ["Choice", "Condition", "Parameter", "Point", "is_interpolation", "value_of_text"]

Point = dict[str, Any]
"""The value of each active parameter by key: a number on a scale, or the text of a choice."""


@dataclass(frozen=True)
class Choice:
    """Some values in order, and how each is written in an override.

    Points and the study contain the texts: these distinguish values that Python or Optuna considers equal (1, 1.0 and
    true), and represent values that a storage cannot hold (lists, dictionaries). If the values are equally spaced
    integers, `step` is their distance; they are then ordered, and the integers themselves are stored.
    """

    values: tuple[Any, ...]
    texts: tuple[str, ...]
    step: int | None = None

    @property
    def elements(self) -> tuple[Any, ...]:
        """Return the elements of a point: the texts, or integers if they have a step."""
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
        """Return the choices as the values that an override would set."""
        return [value_of_text(choice) for choice in self.choices]


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
        """Return the value in the config for an element of a point."""
        return self.values.value(element) if isinstance(self.values, Choice) else element

    def override(self, value: Any) -> str:
        """Return `key=value`; a float is written so that reading it gives the same float."""
        text = value if isinstance(value, str) else repr(value)
        return f"{self.override_key or self.key}={text}"

    def check_rule(self) -> None:
        """Check both ends, or each choice, against the rule of the setting."""
        rule = RULES.get(self.key)
        if rule is not None:
            values = self.values
            for value in values.values if isinstance(values, Choice) else (values.low, values.high):
                if not is_interpolation(value):  # known only in a composed job
                    rule.check(self.key, value)


def value_of_text(text: str) -> Any:
    """Return the value that an override `key=text` sets; lists and dictionaries as Python's."""
    try:
        return OverridesParser.create().parse_override(f"key={text}").value()
    except HydraException:
        return text


def _are_equal(a: Any, b: Any) -> bool:
    """Compare as settings: true is not 1, but 1.0 is."""
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def is_interpolation(value: Any) -> bool:
    """Return whether the value, or an item of it, is known only in a composed config."""
    return "${" in str(value)
