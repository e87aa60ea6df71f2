"""The sweeper and the launchers of bnlab among the choices that Hydra composes from: their names and arguments.

Composing needs no more of them, so that neither Optuna nor a launcher is imported for it.
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
    Plugins.instance()  # finds what is installed first, so that ours replaces what has the same name
    store(group, name, {"_target_": name_in_hydra(target), **arguments})


def name_in_hydra(target: str) -> str:
    """The name by which Hydra makes a plugin; 1.3 accepts classes of its own package of plugins only."""
    return f"hydra_plugins.bnlab.{target.rpartition('.')[2]}" if hydra.__version__.startswith("1.3.") else target
