"""The names on a command line: groups and their choices, and settings with the choices that have them.

They are read only after a mistake, because reading them takes a while.
"""

import functools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from bnlab.config.folder import config_folder
from bnlab.internals.hydra_internals import repository_of
from bnlab.text.command_line import Origin

__all__ = ["Vocabulary", "vocabulary_of"]

_KEYED_BY_NAMES = ("search.space", "search.figures", "callbacks", "metrics", "figures")  # their keys are the user's
_GROUPS_OF_HYDRA = ("hydra/launcher", "hydra/sweeper", "hydra/job_logging", "hydra/hydra_logging")


@dataclass(frozen=True)
class Vocabulary:
    """Names of groups, choices and settings.

    Attributes:
        choices: the choices of each group.
        defaults: the default choice of each group.
        values: the values of the settings that always exist, by key.
        of_choices: for settings that only some choices of a group have, by key: the group, and the value per choice.
        targets: the `_target_` of each choice of a group; None if nothing is built.
        primary: the possible values of `--config-name`.
    """

    choices: dict[str, list[str]]
    defaults: dict[str, str]
    values: dict[str, Any]
    of_choices: dict[str, tuple[str, dict[str, Any]]]
    targets: dict[tuple[str, str], str | None]
    primary: list[str]

    @property
    def is_known(self) -> bool:
        """Whether the configs could be listed."""
        return bool(self.defaults)

    @property
    def settings(self) -> list[str]:
        """Return all names, those of the training first, then of the search, then of Hydra."""
        keys = [*self.values, *self.of_choices]
        return sorted(dict.fromkeys(keys), key=lambda key: (key.startswith("hydra."), key.startswith("search.")))

    def value(self, key: str, chosen: Mapping[str, str]) -> Any:
        """Return the default of `key` if groups have the `chosen` choices.

        Raises:
            KeyError: it does not exist.
        """
        if key in self.of_choices:
            group, by_choice = self.of_choices[key]
            choice = chosen.get(group)
            if choice in by_choice:
                return by_choice[choice]
        return self.values[key]

    def has(self, key: str, chosen: Mapping[str, str]) -> bool:
        """Whether `key` exists."""
        try:
            self.value(key, chosen)
        except KeyError:
            return False
        return True

    def of_group(self, group: str, chosen: Mapping[str, str]) -> list[str]:
        """Return the names of the settings in a group when groups have the `chosen` choices."""
        inside = [key for key in self.settings if key.startswith(f"{group}.") and self.has(key, chosen)]
        return [key.removeprefix(f"{group}.") for key in inside]

    def target(self, group: str, chosen: Mapping[str, str]) -> str | None:
        return self.targets.get((group, chosen.get(group, "")))


def vocabulary_of(origin: Origin) -> Vocabulary:
    """Read the vocabulary from the folders of configs and Hydra's own."""
    return _of_bnlab() if origin.is_default else _read(origin)


@functools.cache
def _of_bnlab() -> Vocabulary:
    return _read(Origin())


def _read(origin: Origin) -> Vocabulary:
    from hydra.conf import HydraConf
    from hydra.core.default_element import GroupDefault
    from hydra.core.object_type import ObjectType

    beside = None if origin.config_dir is None else os.path.abspath(origin.config_dir)
    repository = repository_of(origin.config_path or config_folder(), beside)
    if repository is None:
        return Vocabulary({}, {}, {}, {}, {}, [])

    def below(parent: str) -> Iterator[str]:
        for name in repository.get_group_options(parent, ObjectType.GROUP):
            group = f"{parent}/{name}" if parent else name
            if group != "hydra":
                yield group
                yield from below(group)

    groups = [*below(""), *_GROUPS_OF_HYDRA]
    choices = {group: repository.get_group_options(group, ObjectType.CONFIG) for group in groups}
    choices = {group: options for group, options in choices.items() if options}
    hydra: Any = OmegaConf.to_container(OmegaConf.structured(HydraConf), resolve=False, enum_to_str=True)
    values = dict(
        _flat({"hydra": {key: value for key, value in hydra.items() if key not in ("overrides", "job_logging")}})
    )
    defaults = {"hydra/launcher": "basic"}  # Hydra's own default, which is in none of our files
    primary = repository.load_config(origin.config_name)
    if primary is not None:
        container: Any = OmegaConf.to_container(primary.config, resolve=False)
        values |= dict(_flat(container))
        for default in primary.defaults_list or []:
            if isinstance(default, GroupDefault) and default.group and isinstance(default.value, str):
                defaults[default.group] = default.value
    of_choices: dict[str, tuple[str, dict[str, Any]]] = {}
    targets: dict[tuple[str, str], str | None] = {}
    for group, options in choices.items():
        package = group.replace("/", ".")
        if package in _KEYED_BY_NAMES:
            continue
        for option in options:
            loaded = repository.load_config(f"{group}/{option}")
            if loaded is None or loaded.header.get("package") not in (None, "_group_"):
                continue
            node: Any = OmegaConf.to_container(loaded.config, resolve=False)
            targets[group, option] = node.get("_target_")
            for key, value in _flat(node, f"{package}."):
                of_choices.setdefault(key, (group, {}))[1][option] = value
    return Vocabulary(
        choices,
        defaults,
        values,
        of_choices,
        targets,
        [name for name in repository.get_group_options("", ObjectType.CONFIG) if not name.startswith("_")],
    )


def _flat(node: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{name}.")
        elif key != "_target_":
            yield name, value
