"""Compose the configs of many jobs that differ only in values: Hydra composes one, the others are changed copies."""

import copy
import pickle
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.plugins.config_source import ConfigSource
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from bnlab.errors import UserError
from bnlab.internals import hydra_internals
from bnlab.process.shared_process import leave_removed_folder
from bnlab.text.command_line import Origin, given_overrides

__all__ = ["SUBDIR", "SweepConfigLoader", "loader_for"]

SUBDIR = "hydra.sweep.subdir"  # the only setting of Hydra that the search sets for each job


class SweepConfigLoader(ConfigLoader):
    """Replaces Hydra's loader, which composes every job of a sweep from scratch; delete when it caches them.

    Hydra composes the groups first, and then sets the overridden values one after the other. The first step is cached;
    the second one is done by Hydra's own function, on a copy. All other overrides are left to Hydra entirely.
    """

    def __init__(self, loader: ConfigLoader) -> None:
        self._loader = loader
        self._composed: dict[tuple[str, ...], bytes] = {}  # pickled, which copies faster than deepcopy
        self._is_group: dict[str, bool] = {}
        self._parsed: dict[str, Override] = {}

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        leave_removed_folder()  # Hydra records the current folder
        parsed = [self._parse(override) for override in sweep_overrides]
        hydra_overrides = given_overrides(master_config.hydra.overrides.hydra)
        groups: list[Override] = []
        values: list[Override] = []
        for override in parsed:
            (groups if self._chooses(override, master_config) else values).append(override)
        set_values = hydra_internals.setter_of_values()
        if set_values is None or not all(map(_only_sets_a_value, values)) or not all(map(_only_picks, groups)):
            return self._loader.load_sweep_config(master_config, sweep_overrides)
        lines = [str(override.input_line) for override in groups]
        key = (*hydra_overrides, "", *lines)
        if key not in self._composed:
            self._composed[key] = pickle.dumps(self._loader.load_sweep_config(master_config, lines))
        config: DictConfig = pickle.loads(self._composed[key])
        set_values(config, values, [override for override in parsed if not override.is_hydra_override()])
        for of_hydra, written in (
            (True, config.hydra.overrides.hydra),
            (False, config.hydra.overrides.task),
        ):
            while len(written) > (len(hydra_overrides) if of_hydra else 0):
                written.pop()
            for override in parsed:
                if override.is_hydra_override() == of_hydra:
                    written.append(override.input_line)
        OmegaConf.copy_cache(from_config=master_config, to_config=config)
        return config

    def _parse(self, line: str) -> Override:
        if line not in self._parsed:
            if len(self._parsed) > 10_000:  # the overrides of trials are used only once
                self._parsed.clear()
            self._parsed[line] = OverridesParser.create().parse_override(line)
        return self._parsed[line]

    def _chooses(self, override: Override, master_config: DictConfig) -> bool:
        """Return whether the override picks from a config group, which cannot be set after composing."""
        return not isinstance(override.value(), dict) and self.is_group(override.key_or_group, master_config)

    def is_group(self, key: str, master_config: DictConfig) -> bool:
        if key not in self._is_group:
            self._is_group[key] = "." not in key and bool(
                self._loader.get_group_options(
                    key,
                    results_filter=None,
                    config_name=master_config.hydra.job.config_name,
                    overrides=given_overrides(master_config.hydra.overrides.hydra),
                )
            )
        return self._is_group[key]

    def options(self, key: str, master_config: DictConfig) -> list[str]:
        """List the choices of the group `key`; empty if `key` is not a group."""
        if not self.is_group(key, master_config):
            return []
        return self._loader.get_group_options(
            key,
            config_name=master_config.hydra.job.config_name,
            overrides=list(master_config.hydra.overrides.hydra),
        )

    # The following methods forward to Hydra's loader.

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        return self._loader.load_configuration(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)

    def get_search_path(self) -> ConfigSearchPath:
        return self._loader.get_search_path()

    def get_sources(self) -> list[ConfigSource]:
        return self._loader.get_sources()

    def list_groups(self, parent_name: str) -> list[str]:
        return self._loader.list_groups(parent_name)

    def get_group_options(
        self,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        return self._loader.get_group_options(group_name, results_filter, config_name, overrides)

    def compute_defaults_list(self, config_name: str | None, overrides: list[str], run_mode: RunMode) -> Any:
        return self._loader.compute_defaults_list(config_name, overrides, run_mode)

    def __getattr__(self, name: str) -> Any:  # attributes of Hydra's own class beside its interface
        if name == "_loader":  # does not exist yet while unpickling
            raise AttributeError(name)
        return getattr(self._loader, name)


def _only_sets_a_value(override: Override) -> bool:
    return (
        not override.is_delete()
        and override.package is None
        and not override.is_sweep_override()
        and (override.key_or_group == SUBDIR or not override.is_hydra_override())
    )


def _only_picks(override: Override) -> bool:
    return override.type == OverrideType.CHANGE and not override.is_hydra_override()


def loader_for(origin: Origin, loader: ConfigLoader) -> ConfigLoader:
    """Make the loader for the flags of `origin`; those of `loader` take precedence.

    Raises:
        UserError: a folder of configs no longer exists.
    """
    path = copy.deepcopy(loader.get_search_path())
    providers = [element.provider for element in path.get_path()]
    if origin.config_dir is not None and "command-line" not in providers:
        if not Path(origin.config_dir).is_dir():
            raise UserError(
                f"The sweep was started with --config-dir {origin.config_dir}, which no longer exists: give its "
                "new place by --config-dir."
            )
        path.prepend("command-line", f"file://{origin.config_dir}", SearchPathQuery(provider="schema"))
    if origin.config_path is not None:
        for element in path.get_path():
            if element.provider == "main":
                element.path = origin.config_path
    return hydra_internals.loader_of(path, loader)
