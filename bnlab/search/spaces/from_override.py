"""Read an override, such as `optimizer.lr=tag(log,interval(1e-4,1))`, as a parameter."""

import random
from dataclasses import replace
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from bnlab.errors import UserError
from bnlab.search.spaces.parameter import Choice, Condition, Parameter, value_of_text
from bnlab.search.spaces.scales import Integers, Log, LogIntegers, OneMinusLog, Scale, Uniform

__all__ = ["fixed_parameter", "parameter_of"]


def parameter_of(override: Any, seed: int) -> Parameter:
    """Return the parameter that a parsed sweep override (Hydra's `Override`) describes; `seed` is for shuffle().

    Raises:
        UserError: a tag has no meaning, or the range is impossible.
    """
    key = override.key_or_group
    # Hydra leaves the meaning of tags to the sweeper: here a scale, or key=choice|choice for a condition.
    tags = set(getattr(override.value(), "tags", ()))
    conditions = [Condition.parse(tag) for tag in tags if "=" in tag]
    scales = sorted(tag for tag in tags if "=" not in tag)
    if len(conditions) > 1:
        raise UserError(
            f"`{key}` must have at most one condition, but got {len(conditions)}: write '{conditions[0].key}=a|b'."
        )
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
    """Return a parameter with one value wherever it exists, from a parsed override that is no sweep."""
    text = str(override.input_line).partition("=")[2]
    return Parameter(override.key_or_group, Choice((value_of_text(text),), (text,)), None, override.get_key_element())


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
    if shuffled:  # Hydra's order would differ each time the space is read
        override = replace(override, _value=replace(override.value(), shuffle=False))
    texts, values = [], []
    for text, raw in zip(override.sweep_string_iterator(), override.sweep_iterator(), strict=True):
        value = raw if raw is None or isinstance(raw, bool | int | float) else value_of_text(text)
        if isinstance(raw, str):
            if _sets(raw, raw):
                text = raw  # Hydra's text has more backslashes than needed
            elif not _sets(text, raw):  # such as str(1, 2), whose texts Hydra writes without quotes
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
    """Return whether an override `key=text` sets `value`."""
    try:
        return bool(OverridesParser.create().parse_override(f"key={text}").value() == value)
    except HydraException:
        return False
