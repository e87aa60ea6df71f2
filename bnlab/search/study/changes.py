"""The settings when a sweep was defined, which must not have changed when it is resumed or shared."""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from bnlab.config.confidential import to_write
from bnlab.search.spaces.parameter import Choice, Parameter
from bnlab.search.spaces.scales import Scale
from bnlab.text.command_line import same
from bnlab.text.concealing import is_masked

if TYPE_CHECKING:
    from bnlab.search.definition.composition import SweepConfigLoader
    from bnlab.search.definition.search import Search

__all__ = ["Settings", "changes", "composed", "shared_settings"]

Settings = dict[str, dict[str, Any]]
"""For each choice of groups, written as overrides: all settings by their keys in the config, unresolved."""

# Settings of how a sweep is run, not of what it runs; these may differ between machines and days.
_HOW = tuple(
    f"search.{name}"
    for name in ("num_trials", "batch_size", "pruner", "resume", "retry_failed", "storage", "study", "trust")
)
_WHERE = ("data.root", "num_threads", "trainer.accelerator", "trainer.devices", "logger", "search")


def composed(search: "Search", config: DictConfig, loader: "SweepConfigLoader") -> Settings:
    """Compose the settings of a search's jobs: for its first values, and for each choice of a group that it varies."""
    space = search.space
    groups = [p for p in space.parameters if isinstance(p.values, Choice) and loader.is_group(p.key, config)]
    choices: list[dict[str, Any]] = [{}]
    choices += [
        {**space.where_active(p), p.key: element}
        for p in groups
        for element in p.values.elements  # type: ignore[union-attr]
    ]
    settings: Settings = {}
    for choice in choices:
        point = space.draw(partial(_first, choice))
        job = loader.load_sweep_config(config, search.overrides(point, 0))
        label = " ".join(space[key].override(value) for key, value in choice.items() if key in point)
        container: Any = OmegaConf.to_container(job, resolve=False, enum_to_str=True)
        of_job = {key: value for key, value in container.items() if key not in ("hydra", "search")}
        written = {key: to_write(key, value) for key, value in _flat(of_job)}
        settings[label] = json.loads(json.dumps(written, default=str))
    of_search: Any = OmegaConf.to_container(config.search, resolve=False)  # it is not part of the jobs
    flat = {key: value for key, value in _flat({"search": of_search}) if not _is(key, _HOW)}
    return {**settings, "": flat | settings[""]}


def _first(choice: Mapping[str, Any], parameter: Parameter) -> Any:
    values = parameter.values
    return choice.get(parameter.key, values.low if isinstance(values, Scale) else values.elements[0])


def _flat(node: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _is(key: str, named: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in named)


def changes(before: Settings, after: Settings) -> list[str]:
    """List the settings that differ, as "key was x, is y", each key once."""
    lines: dict[str, str] = {}
    for label in [*before, *(label for label in after if label not in before)]:
        old, new = before.get(label, {}), after.get(label, {})
        for key in [*old, *(key for key in new if key not in old)]:
            if key not in lines and not same(old.get(key), new.get(key)) and not is_masked(old.get(key)):
                where = f" with {label}" if label else ""
                lines[key] = f"`{key}`{where} was {_shown(old, key)}, is {_shown(new, key)}"
    return list(lines.values())


def _shown(settings: Mapping[str, Any], key: str) -> str:
    return json.dumps(settings[key], ensure_ascii=False) if key in settings else "not there"


def shared_settings(settings: Settings) -> Settings:
    """Return the settings that sweeps on several machines must share, which excludes where data or a GPU are."""
    return {
        label: {key: value for key, value in flat.items() if not _is(key, _WHERE)} for label, flat in settings.items()
    }
