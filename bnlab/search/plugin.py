"""Makes the sweeper and the launchers of bnlab known to Hydra. Optuna is imported when a sweep starts."""

from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.plugin import Plugin
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

__all__ = ["SearchSweeper", "register", "register_plugin"]


class SearchSweeper(Sweeper):
    """`hydra/sweeper=bnlab`: the searches of `bnlab.search`."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._hydra_context = hydra_context
        self._task_function = task_function
        self._config = config

    def sweep(self, arguments: list[str]) -> Any:
        from bnlab.search.sweep import sweep
        from bnlab.signals import answer_by_raising

        answer_by_raising()
        try:
            return sweep(self._hydra_context, self._task_function, self._config, arguments)
        except SystemExit:  # after a failed trial or an interruption, where Hydra would not call them
            name = self._config.hydra.job.config_name
            self._hydra_context.callbacks.on_multirun_end(config=self._config, config_name=name)
            raise


def register() -> None:
    """Make `hydra/sweeper=bnlab`, `hydra/launcher=joblib` and `hydra/launcher=stacked` selectable."""
    from bnlab.launchers.joblib_launcher import JoblibLauncher
    from bnlab.launchers.stacked_launcher import StackedLauncher

    register_plugin(SearchSweeper, "hydra/sweeper", "bnlab", {})
    register_plugin(JoblibLauncher, "hydra/launcher", "joblib", {"n_jobs": -1})
    register_plugin(StackedLauncher, "hydra/launcher", "stacked", {"n_jobs": -1})


def register_plugin(plugin: type[Plugin], group: str, name: str, arguments: dict[str, Any]) -> None:
    """Make `group=name` stand for `plugin(**arguments)`."""
    plugins = Plugins.instance()  # finds what is installed first, so that ours replaces what has the same name
    plugins.register(plugin)
    target = f"{plugin.__module__}.{plugin.__name__}"
    if hydra.__version__.startswith("1.3."):  # which accepts classes of its own package of plugins only
        target = f"hydra_plugins.bnlab.{plugin.__name__}"
        plugins.class_name_to_class[target] = plugin
    ConfigStore.instance().store(group=group, name=name, node={"_target_": target, **arguments}, provider="bnlab")
