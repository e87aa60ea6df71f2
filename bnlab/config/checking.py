"""Holding a config against the rules of its settings, before anything is trained."""

from omegaconf import DictConfig, OmegaConf

from bnlab.config.confidential import leaves
from bnlab.errors import UserError, user_errors
from bnlab.rules import RULES
from bnlab.task import objectives, task_of
from bnlab.text.concealing import is_masked

__all__ = ["check"]

_REQUIRED = ("data", "model", "norm", "optimizer", "scheduler", "trainer", "logger", "seed", "objective", "num_threads")
_WITHOUT = {"norm": "norm=none", "scheduler": "scheduler=constant", "logger": "logger=csv"}


def check(config: DictConfig) -> None:
    """Hold every setting against its rule.

    Raises:
        UserError: the first setting that breaks its rule, with the rule and the value.
    """
    with user_errors():
        settings = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    for key, value in leaves(settings):
        if is_masked(value):
            raise UserError(
                f"`{key}` is {value!r}, where *** stands for a secret that was not written down: give it again, "
                f"best as {key}='${{oc.env:NAME}}'."
            )
    assert isinstance(settings, dict)
    for key in _REQUIRED:
        if key not in settings:
            without = f", or choose {_WITHOUT[key]}" if key in _WITHOUT else ""
            raise UserError(f"`{key}` must not be taken out of the config: leave it there{without}.")
    for key, rule in RULES.items():
        value = settings
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                break
            value = value[part]
        else:
            rule.check(key, value)
    for name, callback in settings.get("callbacks", {}).items():
        if not isinstance(callback, dict) or "_target_" not in callback:
            raise UserError(
                f"`callbacks.{name}` must name a class as `_target_`, but got {callback!r}: "
                f"+callbacks.{name}._target_=... adds it, ~callbacks.{name} takes it away."
            )
    objective, task = settings.get("objective"), task_of(config)
    if objective not in objectives(task):
        raise UserError(
            f"`objective` must be {' or '.join(map(repr, objectives(task)))} with task={task}, but got {objective!r}."
        )
    trainer = config.get("trainer") or {}
    if trainer.get("max_epochs") == -1 and trainer.get("max_steps", -1) == -1:
        raise UserError("`trainer.max_epochs` and `trainer.max_steps` are both -1: set one, or training never ends.")
