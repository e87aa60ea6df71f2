"""Register the sweeper and the launchers of bnlab with Hydra. Optuna is imported when a sweep starts."""

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.plugin import Plugin
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from bnlab.config.hydra_choices import add_choice, add_choices, name_in_hydra
from bnlab.internals.hydra_internals import end_of_failed_sweep
from bnlab.launchers.joblib_launcher import JoblibLauncher
from bnlab.launchers.stacked_launcher import StackedLauncher
from bnlab.process.signals import raise_on_signals

__all__ = ["SearchSweeper", "register", "register_plugin"]


class SearchSweeper(Sweeper):
    """`hydra/sweeper=bnlab`: the searches of `bnlab.search`."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._hydra_context = hydra_context
        self._task_function = task_function
        self._config = config

    def sweep(self, arguments: list[str]) -> Any:
        from bnlab.search.sweeps.sweep import sweep

        raise_on_signals()
        try:
            return sweep(self._hydra_context, self._task_function, self._config, arguments)
        except SystemExit:  # after a failed trial or an interruption
            end_of_failed_sweep(self._hydra_context, self._config)
            raise


def register() -> None:
    """Register the sweeper and the launchers of bnlab."""
    add_choices()
    for plugin in (SearchSweeper, JoblibLauncher, StackedLauncher):
        _make_known(plugin)


def register_plugin(plugin: type[Plugin], group: str, name: str, arguments: dict[str, Any]) -> None:
    """Make `group=name` stand for `plugin(**arguments)`."""
    add_choice(group, name, _target(plugin), arguments)
    _make_known(plugin)


def _make_known(plugin: type[Plugin]) -> None:
    plugins = Plugins.instance()
    plugins.register(plugin)
    name = name_in_hydra(_target(plugin))
    if name != _target(plugin):
        plugins.class_name_to_class[name] = plugin


def _target(plugin: type[Plugin]) -> str:
    return f"{plugin.__module__}.{plugin.__name__}"
