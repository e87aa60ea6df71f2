"""Read the command line into a search."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from bnlab.config.read_settings import NOTHING_READS_IT, is_unread
from bnlab.errors import UserError, user_errors
from bnlab.metrics import minimizes, objectives
from bnlab.mistakes.added import is_interpolated
from bnlab.rules import RULES, one_of
from bnlab.search.definition.batch_sizes import limit_to_training_set
from bnlab.search.definition.composition import SweepConfigLoader
from bnlab.search.definition.effects import without_equals
from bnlab.search.definition.ineffective import drop_ineffective
from bnlab.search.definition.left_out import conditional_on_choices
from bnlab.search.definition.search import Search
from bnlab.search.definition.searched_keys import check_is_no_secret, check_is_no_setting_of_the_search, is_of_search
from bnlab.search.definition.settings import SearchSettings
from bnlab.search.spaces.conditions import drop_impossible
from bnlab.search.spaces.from_override import parameter_of
from bnlab.search.spaces.parameter import Parameter
from bnlab.search.spaces.space import Space

__all__ = ["read_search"]

_ABSENT = object()  # null is a value


def read_search(
    config: DictConfig, arguments: Sequence[str], loader: SweepConfigLoader, *, is_new: bool = True
) -> Search:
    """Read and check the search that a composed config and the overrides of its settings define.

    Args:
        config: the sweep's config, as composed by Hydra.
        arguments: the overrides of settings and groups, including those that are searched.
        is_new: whether the sweep is new; a resumed sweep may have settings that a new one may not.
    Raises:
        UserError: a setting, the space or a job cannot work.
    """
    with user_errors("`search`: "):
        node: Any = OmegaConf.to_container(config.search, resolve=True)
    parser = OverridesParser.create(config_loader=loader)
    overrides = parser.parse_overrides(list(arguments))
    for override in overrides:
        if override.is_sweep_override():
            check_is_no_setting_of_the_search(override.key_or_group, str(override.input_line))
            check_is_no_secret(override.key_or_group)
    kind = config.hydra.runtime.choices.get("search")
    settings = SearchSettings.read(node, kind)
    given = _last_overrides([override for override in overrides if not is_of_search(override.key_or_group)])
    named = {override.key_or_group for override in given}
    entries = [_entry(parser, key, value) for key, value in _space_of(node).items() if key not in named]
    swept = [override for override in (*given, *entries) if override.is_sweep_override()]
    parameters = tuple(parameter_of(override, settings.seed) for override in swept)
    constant = [override for override in (*entries, *given) if not override.is_sweep_override()]
    parameters, fixed, notes = conditional_on_choices(parameters, constant, config, loader)
    objective = config.objective
    one_of(*objectives(config)).check("objective", objective)
    if settings.seeds > 1 and "seed" in (parameter.key for parameter in parameters):
        raise UserError("`seed` is set by search.seeds: search one of the two.")
    # Values fixed in a space file are not in `config`.
    base = config if all(entry in swept for entry in entries) else loader.load_sweep_config(config, fixed)
    space = drop_impossible(
        Space(parameters, _constants(base, parameters)), named, partial(loader.options, master_config=config)
    )
    for parameter in space.parameters:
        parameter.check_rule()
    space, of_batches = limit_to_training_set(space, base, named)
    notes += of_batches
    RULES["seed"].check("seed", base.seed)
    names = _names_of_folders(given, config)
    search = Search(settings, space, fixed, None, objective, minimizes(config), base.seed, tuple(notes), names)
    search = replace(search, space=drop_ineffective(search, given, config, loader, is_new=is_new))
    if settings.sampler is not None and not search.space.parameters:
        raise UserError(
            f"search={kind} has no space: name settings, such as 'optimizer.lr=tag(log,interval(1e-4,1))', or "
            "take search/space=learning_rate."
        )
    return _with_points(search, config, loader)


def _with_points(search: Search, config: DictConfig, loader: SweepConfigLoader) -> Search:
    """List the points of the search if they are known before any draw: those of a grid, or of a small finite space."""
    settings = search.settings
    if settings.sampler is None:
        points = search.space.grid()
        distinct = without_equals(points, lambda point: loader.load_sweep_config(config, search.overrides(point, 0)))
        if len(distinct) < len(points):
            alike = f"{len(points) - len(distinct)} of {len(points)} configurations"
            note = f"{alike} differ from others only in settings that no run reads: they are left out."
            search = replace(search, notes=(*search.notes, note))
        return replace(search, points=distinct[: settings.num_trials])
    assert settings.num_trials is not None
    all_of_them = search.space.configurations(settings.num_trials)
    if all_of_them is not None:
        random.Random(settings.seed).shuffle(all_of_them)  # so that an interrupted sweep has tried some of each value
    if all_of_them is None or len(all_of_them) == settings.num_trials:
        return replace(search, points=all_of_them)
    number = f"{len(all_of_them)} configuration{'s' * (len(all_of_them) != 1)}"
    note = f"The space has {number}, each of which is tried once, instead of {settings.num_trials}."
    return replace(search, points=all_of_them, notes=(*search.notes, note))


def _names_of_folders(given: Sequence[Override], config: DictConfig) -> frozenset[str]:
    of_runs = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    return frozenset(
        override.key_or_group
        for override in given
        if (override.is_add() or override.is_force_add())
        and is_unread(of_runs, override.key_or_group) == NOTHING_READS_IT
        and is_interpolated(override.key_or_group, config.hydra)
        and not is_interpolated(override.key_or_group, of_runs)
    )


def _last_overrides(overrides: Sequence[Override]) -> list[Override]:
    """Keep the last override of each searched key, as a single run does; Hydra handles the other keys."""
    last = {override.get_key_element(): override for override in overrides}
    return [
        override
        for override in overrides
        if override is (final := last[override.get_key_element()])
        or not (override.is_sweep_override() or final.is_sweep_override())
    ]


def _space_of(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `search.space`, checked."""
    space_file = node.get("space") or {}
    if not isinstance(space_file, Mapping):
        raise UserError(
            f"`search.space` must be settings and what each is searched over, but got {space_file!r}: choose one by "
            "search/space=learning_rate, or name settings such as optimizer.lr=0.1,0.01."
        )
    for key, value in space_file.items():
        if isinstance(value, Mapping):
            below = next(iter(value), "...")
            raise UserError(
                f"`search.space` names each setting in full, but has a mapping for `{key}`: write "
                f"`{key}.{below}: {value.get(below)}` instead of `{key}: {{{below}: {value.get(below)}}}`."
            )
    return space_file


def _entry(parser: OverridesParser, key: str, value: Any) -> Override:
    """Parse a line of a space file as an override."""
    text = value if isinstance(value, str) else _written(value)
    with user_errors(f"`search.space`, {key}: "):
        check_is_no_setting_of_the_search(key, f"{key}={text}")
        return parser.parse_override(f"{key}={text}")


def _written(value: Any) -> str:
    import json  # writes null, true, numbers and lists as Hydra does

    return json.dumps(value, separators=(",", ":"))


def _constants(config: DictConfig, parameters: Sequence[Parameter]) -> dict[str, Any]:
    """Return the values of the conditions' keys that are not searched: choices of groups, or settings."""
    choices = config.hydra.runtime.choices
    constants = {}
    for key in {parameter.condition.key for parameter in parameters if parameter.condition is not None}:
        value = choices[key] if key in choices else OmegaConf.select(config, key, default=_ABSENT)
        if value is not _ABSENT:
            constants[key] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    return constants
