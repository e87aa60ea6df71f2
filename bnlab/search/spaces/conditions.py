"""Find the conditions that can never hold: refuse those that were typed, drop the other parameters."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from bnlab.errors import UserError
from bnlab.rules import RULES
from bnlab.search.spaces.parameter import Choice, Condition, Parameter
from bnlab.search.spaces.scales import Integers, LogIntegers
from bnlab.search.spaces.space import Space

__all__ = ["drop_impossible"]


def drop_impossible(space: Space, typed: Collection[str], options_of: Callable[[str], Sequence[str]]) -> Space:
    """Drop the parameters that no trial can have, such as Adam's in a ready-made space with optimizer=sgd.

    Args:
        typed: the keys that the user gave: their conditions were meant for this search.
        options_of: returns the options of a group by its key; none if the key is not a group.
    Raises:
        UserError: a condition names a value that its key cannot have, or a typed condition never holds.
    """
    kept: list[Parameter] = []
    for parameter in space.in_order_of_dependence():
        condition = parameter.condition
        if condition is None:
            kept.append(parameter)
            continue
        _check_values(parameter.key, condition, options_of)
        _check_key(parameter.key, condition, space, options_of)
        reason = _why_never(condition, space, kept)
        if reason is None:
            kept.append(parameter)
        elif parameter.key in typed:
            raise UserError(f"`{parameter.key}` is for '{condition}', but {reason}: no trial would have it.")
    return Space(tuple(parameter for parameter in space.parameters if parameter in kept), space.constants)


def _check_values(key: str, condition: Condition, options_of: Callable[[str], Sequence[str]]) -> None:
    """Check that each choice is an option of the group, or obeys the rule of the setting."""
    options, rule = options_of(condition.key), RULES.get(condition.key)
    for text, value in zip(condition.choices, condition.values, strict=True):
        wanted = None
        if options and text not in options and value is not None and "/" not in text:
            wanted = f"one of {', '.join(options)}"
        elif rule is not None and not rule.holds(value):
            wanted = rule.text
        if wanted is not None:
            raise UserError(f"`{key}` is for '{condition}', but `{condition.key}` must be {wanted}, not {text!r}.")


def _check_key(key: str, condition: Condition, space: Space, options_of: Callable[[str], Sequence[str]]) -> None:
    """Refuse a condition on a setting of a searched group, which may be missing or differ from trial to trial."""
    searched = [parameter.key for parameter in space.parameters]
    for group in searched:
        inside = condition.key.startswith(f"{group.replace('/', '.')}.")
        if inside and condition.key not in searched and options_of(group):
            raise UserError(
                f"`{key}` is for '{condition}', but what `{condition.key}` is depends on {group}, which is searched: "
                f"say '{group}=...'."
            )


def _why_never(condition: Condition, space: Space, possible: Sequence[Parameter]) -> str | None:
    """Explain why `condition` holds in no trial; None if it may. It can depend on the parameters in `possible`."""
    key = condition.key
    if all(parameter.key != key for parameter in space.parameters):
        constant = space.constants[key]
        return None if condition.holds(constant) else f"`{key}` is {_shown(constant)} in every trial"
    values = space[key].values
    if all(parameter.key != key for parameter in possible):
        return f"no trial has `{key}` itself"
    if isinstance(values, Choice):
        if any(map(condition.holds, values.values)):
            return None
        return f"`{key}` is one of {', '.join(values.texts)}"
    whole = isinstance(values, Integers | LogIntegers)
    if whole and any(value == int(value) and values.low <= value <= values.high for value in _numbers(condition)):
        return None
    return f"`{key}` is a {'whole' if whole else 'random'} number from {values.low:g} to {values.high:g}"


def _numbers(condition: Condition) -> list[float]:
    return [value for value in condition.values if isinstance(value, int | float) and not isinstance(value, bool)]


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)
