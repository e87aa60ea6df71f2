"""Recognizes from a group's settings which choice it was, such as `optimizer=nesterov`."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from bnlab.config.folder import config_folder
from bnlab.io.yaml_text import read_yaml

__all__ = ["GROUPS", "UNKNOWN", "choice_of", "default_of", "default_of_all"]

UNKNOWN = object()

GROUPS = ("data", "model", "norm", "optimizer", "scheduler", "trainer")


@functools.cache
def _choices(group: str) -> dict[str, dict[str, Any]]:
    """Return bnlab's own choices of a group by name, with their interpolations unresolved."""
    return {file.stem: read_yaml(file) for file in sorted(Path(config_folder(), group).glob("*.yaml"))}


@functools.cache
def _common_settings() -> dict[str, Any]:
    """Return the settings that every config has, nested, without the choices of groups."""
    settings: dict[str, Any] = read_yaml(Path(config_folder(), "train.yaml"))
    return settings


def default_of_all(key: str) -> Any:
    """Return the default of `key`, whatever is chosen; `UNKNOWN` if train.yaml does not define it."""
    value: Any = _common_settings()
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return UNKNOWN
        value = value[part]
    return value


def choice_of(group: str, settings: Mapping[str, Any]) -> str:
    """Return the choice of `group` that has these settings, such as `nesterov`; for a user's class, its name.

    Among choices with the same class (sgd, momentum, nesterov), it is one whose settings are all present: the one that
    has the most keys, then the most values, in common with them.
    """
    target = settings.get("_target_")
    candidates = {name: choice for name, choice in _choices(group).items() if choice.get("_target_") == target}
    if not candidates:
        return "none" if target is None else str(target).rpartition(".")[2]

    def fit(choice: Mapping[str, Any]) -> tuple[int, int, int]:
        known = choice.keys() & settings.keys()
        return -len(choice.keys() - known), len(known), sum(settings[key] == choice[key] for key in known)

    return max(candidates, key=lambda name: fit(candidates[name]))


def default_of(group: str, choice: str, key: str, settings: Mapping[str, Any]) -> Any:
    """Return the default of `key` with that choice, resolved with the run's `settings`; `UNKNOWN` if none of bnlab's
    choices defines it.

    Args:
        settings: the whole config, nested, with its interpolations resolved.
    """
    default = _choices(group).get(choice, {}).get(key, UNKNOWN)
    if not (isinstance(default, str) and "${" in default):
        return default
    given: Any = settings.get(group)
    try:
        config = OmegaConf.create({**settings, group: {**given, key: default}})
        value = OmegaConf.select(config, f"{group}.{key}")
    except Exception:  # a config that somebody else wrote may fail in any way
        return UNKNOWN
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
