"""What a setting may be: rules that say themselves in words, for configs and constructors alike."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bnlab.errors import UserError

__all__ = ["RULES", "Rule", "boolean", "either", "integer", "literal", "number", "one_of", "optional", "sequence_of"]


@dataclass(frozen=True)
class Rule:
    """`holds(value)` decides; `text` completes the sentence "`key` must be ..."."""

    text: str
    holds: Callable[[Any], bool]

    def check(self, key: str, value: Any) -> None:
        if not self.holds(value):
            shown = "null" if value is None else repr(value)
            raise UserError(f"`{key}` must be {self.text}, but got {shown}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _range_text(minimum: float | None, above: float | None, maximum: float | None, below: float | None) -> str:
    parts = [
        f"{sign} {bound:g}"
        for sign, bound in ((">=", minimum), (">", above), ("<=", maximum), ("<", below))
        if bound is not None
    ]
    return " " + " and ".join(parts) if parts else ""


def number(
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
) -> Rule:
    def holds(value: Any) -> bool:
        return (
            _is_number(value)
            and (minimum is None or value >= minimum)
            and (above is None or value > above)
            and (maximum is None or value <= maximum)
            and (below is None or value < below)
        )

    return Rule("a finite number" + _range_text(minimum, above, maximum, below), holds)


def integer(*, minimum: int | None = None, maximum: int | None = None) -> Rule:
    in_range = number(minimum=minimum, maximum=maximum)
    return Rule(
        "a whole number" + _range_text(minimum, None, maximum, None),
        lambda value: isinstance(value, int) and in_range.holds(value),
    )


def one_of(*choices: Any) -> Rule:
    shown = [repr(choice) for choice in choices]
    text = f"{', '.join(shown[:-1])} or {shown[-1]}" if len(shown) > 1 else shown[0]
    return Rule(text, lambda value: any(value == choice and type(value) is type(choice) for choice in choices))


def literal(choice: Any, meaning: str) -> Rule:
    return Rule(f"{choice!r} ({meaning})", lambda value: value == choice and type(value) is type(choice))


def boolean() -> Rule:
    return Rule("true or false", lambda value: isinstance(value, bool))


def optional(rule: Rule, meaning: str) -> Rule:
    return Rule(f"{rule.text}, or null ({meaning})", lambda value: value is None or rule.holds(value))


def either(*rules: Rule) -> Rule:
    return Rule(" or ".join(rule.text for rule in rules), lambda value: any(rule.holds(value) for rule in rules))


def sequence_of(rule: Rule) -> Rule:
    def holds(value: Any) -> bool:
        return isinstance(value, Sequence) and not isinstance(value, str) and all(map(rule.holds, value))

    return Rule(f"a list, each item {rule.text}", holds)


def string() -> Rule:
    return Rule("a text", lambda value: isinstance(value, str))


_UNLIMITED = literal(-1, "no limit")
_FRACTION = number(above=0, below=1)
_BETA = number(minimum=0, below=1)

_T_MAX = integer(minimum=1)
_EPOCHS_OF_COSINE = Rule(f"{_T_MAX.text} (where trainer.max_epochs is -1, set it or scheduler=constant)", _T_MAX.holds)

RULES: dict[str, Rule] = {
    "seed": integer(minimum=0, maximum=2**32 - 1),
    "num_threads": either(integer(minimum=1), literal("auto", "one for a small network, more for larger ones")),
    "objective": one_of("val_accuracy", "val_loss"),
    "data.batch_size": either(integer(minimum=1), literal("full", "the whole training set")),
    "data.normalize": boolean(),
    "data.split_seed": integer(minimum=0, maximum=2**32 - 1),
    "data.root": string(),
    "data.val_fraction": _FRACTION,
    "data.test_fraction": _FRACTION,
    "model.num_layers": integer(minimum=0),
    "model.num_units": integer(minimum=1),
    "model.hidden": sequence_of(integer(minimum=1)),
    "model.bias": either(boolean(), one_of("auto")),
    "norm.placement": one_of("before", "after"),
    "norm.eps": number(above=0),
    "norm.momentum": optional(number(minimum=0, maximum=1), "the average of all batches"),
    "norm.affine": boolean(),
    "norm.track_running_stats": boolean(),
    "optimizer.lr": number(minimum=0),
    "optimizer.momentum": _BETA,
    "optimizer.beta1": _BETA,
    "optimizer.beta2": _BETA,
    "optimizer.alpha": _BETA,
    "optimizer.eps": number(minimum=0),
    "optimizer.weight_decay": number(minimum=0),
    "optimizer.nesterov": boolean(),
    "trainer.max_epochs": either(integer(minimum=1), _UNLIMITED),
    "trainer.max_steps": either(integer(minimum=1), _UNLIMITED),
    "trainer.gradient_clip_val": optional(number(above=0), "no clipping"),
    "scheduler.gamma": number(above=0),
    "scheduler.step_size": integer(minimum=1),
    "scheduler.decay_rate": number(minimum=0),
    "scheduler.eta_min": number(minimum=0),
    "scheduler.T_max": _EPOCHS_OF_COSINE,
}
"""Every setting of `conf/` whose value is ours to judge, by its key; the rest is judged by the class it goes to."""
