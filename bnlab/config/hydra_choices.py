"""Adds bnlab's sweeper and launchers, with their names and arguments, to the choices that Hydra composes from.

Composing needs nothing else, so that neither Optuna nor a launcher is imported for it.
"""

from collections.abc import Mapping
from typing import Any

import hydra
from hydra.core.plugins import Plugins

from bnlab.internals.hydra_internals import store

__all__ = ["add_choice", "add_choices", "name_in_hydra"]

_CHOICES: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("hydra/sweeper", "bnlab", "bnlab.hydra_plugins.register.SearchSweeper", {}),
    ("hydra/launcher", "joblib", "bnlab.launchers.joblib_launcher.JoblibLauncher", {"n_jobs": -1}),
    ("hydra/launcher", "stacked", "bnlab.launchers.stacked_launcher.StackedLauncher", {"n_jobs": -1}),
)


def add_choices() -> None:
    """Make `hydra/sweeper=bnlab`, `hydra/launcher=joblib` and `hydra/launcher=stacked` selectable."""
    for group, name, target, arguments in _CHOICES:
        add_choice(group, name, target, arguments)


def add_choice(group: str, name: str, target: str, arguments: Mapping[str, Any]) -> None:
    """Make `group=name` stand for `target(**arguments)`."""
    Plugins.instance()  # finds the installed plugins first, so that ours replace those of the same name
    store(group, name, {"_target_": name_in_hydra(target), **arguments})


def name_in_hydra(target: str) -> str:
    """Return the name by which Hydra builds a plugin; 1.3 accepts only classes in its own package of plugins."""
    return f"hydra_plugins.bnlab.{target.rpartition('.')[2]}" if hydra.__version__.startswith("1.3.") else target
