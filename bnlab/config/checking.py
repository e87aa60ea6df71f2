"""Check a config against the rules of its settings, before anything is trained."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bnlab.config.confidential import leaves
from bnlab.errors import UserError, user_errors
from bnlab.metrics import METRICS, NAME, objectives
from bnlab.rules import RULES, boolean, one_of
from bnlab.task import task_of
from bnlab.text.concealing import is_masked

__all__ = ["check"]

_REQUIRED = ("data", "model", "norm", "optimizer", "scheduler", "trainer", "logger", "seed", "objective", "num_threads")
_KEYED_BY_NAMES = {"callbacks": "class", "metrics": "class or a function", "figures": "function"}
_RUN_FIGURES = ("curves",)
_WITHOUT = {"norm": "norm=none", "scheduler": "scheduler=constant", "logger": "logger=csv"}


def check(config: DictConfig) -> None:
    """Check every setting against its rule.

    Raises:
        UserError: a setting breaks its rule; the error names the rule and the value.
    """
    with user_errors():
        settings: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    for key, value in leaves(settings):
        if is_masked(value):
            raise UserError(
                f"`{key}` is {value!r}, where *** stands for a secret that was not stored: give it again, "
                f"best as {key}='${{oc.env:NAME}}'."
            )
    assert isinstance(settings, dict)
    for key in _REQUIRED:
        if key not in settings:
            without = f", or choose {_WITHOUT[key]}" if key in _WITHOUT else ""
            raise UserError(f"`{key}` must not be removed from the config: keep it{without}.")
    for key, rule in RULES.items():
        value = settings
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                break
            value = value[part]
        else:
            rule.check(key, value)
    for group, kind in _KEYED_BY_NAMES.items():
        for name, node in settings.get(group, {}).items():
            if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
                raise UserError(
                    f"`{group}.{name}` must name a {kind} as `_target_`, but got {node!r}: "
                    f"+{group}.{name}._target_=... adds it, ~{group}.{name} removes it."
                )
            if group != "callbacks" and not re.fullmatch(NAME, str(name)):
                raise UserError(f"`{group}` must have names of letters, digits and _, such as f1, but got {name!r}.")
            if group == "metrics":
                _check_metric(name, node)
            if group == "figures" and name in _RUN_FIGURES:
                raise UserError(f"`figures.{name}` must have another name: a run draws {name}.png itself.")
    rule = one_of(*objectives(settings))
    replace(rule, text=f"{rule.text} with task={task_of(settings)}").check("objective", settings["objective"])
    trainer = config.get("trainer") or {}
    if trainer.get("max_epochs") == -1 and trainer.get("max_steps", -1) == -1:
        raise UserError("`trainer.max_epochs` and `trainer.max_steps` are both -1: set one, or training never ends.")


def _check_metric(name: str, settings: Mapping[str, Any]) -> None:
    """Check a metric of the user's.

    Raises:
        UserError: it has the name of another one, or does not declare its direction.
    """
    if name in METRICS:
        raise UserError(f"`metrics.{name}` must have another name: {', '.join(METRICS)} are measured in any case.")
    if "higher_is_better" not in settings:
        raise UserError(
            f"`metrics.{name}` must say which of two values is the better one: add "
            f"+metrics.{name}.higher_is_better=true, or false."
        )
    boolean().check(f"metrics.{name}.higher_is_better", settings["higher_is_better"])
