"""From the command line to a search: the settings, the space, and what every job has in common."""

import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from optuna.samplers import BaseSampler

from bnlab.config.checking import check
from bnlab.config.folder import config_folder
from bnlab.config.read_settings import NOTHING_READS_IT, is_unread, read_settings
from bnlab.errors import UserError, one_line, user_errors
from bnlab.metrics import minimizes, objectives, worst_of
from bnlab.mistakes.added import is_interpolated, is_note, refuse_unread, refuse_untaken
from bnlab.preflight import check_early
from bnlab.rules import RULES, one_of
from bnlab.search.definition.batch_sizes import within_the_data
from bnlab.search.definition.composition import SweepConfigLoader
from bnlab.search.definition.effects import without_effect, without_equals
from bnlab.search.definition.left_out import conditional_on_choices
from bnlab.search.definition.settings import SearchSettings
from bnlab.search.samplers.building import build_sampler
from bnlab.search.spaces.conditions import without_the_impossible
from bnlab.search.spaces.distributions import name_in_optuna
from bnlab.search.spaces.from_override import parameter_of
from bnlab.search.spaces.parameter import Choice, Parameter, Point, is_interpolation
from bnlab.search.spaces.scales import Scale
from bnlab.search.spaces.space import Space
from bnlab.text.command_line import Origin
from bnlab.text.concealing import is_named_secret

__all__ = ["Search", "read_search"]

log = logging.getLogger(__name__)

_ABSENT = object()  # null is a value


@dataclass(frozen=True)
class Search:
    """What to search, and how.

    Attributes:
        settings: of `search`.
        space: what varies.
        fixed: overrides that every job has.
        points: where all of them are known, as of a grid, else None.
        objective: its name.
        minimize: whether a lower one is better.
        base_seed: the seed of the first of `search.seeds` runs.
        notes: what the user did not say of it, and should know.
        names: what was added for the names of the trials' folders alone, such as `who` of
            `+who=me,you hydra.sweep.subdir='${who}'`; a run by itself would refuse it.
    """

    settings: SearchSettings
    space: Space
    fixed: list[str]
    points: list[Point] | None
    objective: str
    minimize: bool
    base_seed: int
    notes: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()

    @property
    def worst(self) -> float:
        """The objective that stands for a training without a finite epoch."""
        return worst_of(self.objective, minimize=self.minimize)

    @property
    def num_points(self) -> int:
        if self.points is None:
            assert self.settings.num_trials is not None
            return self.settings.num_trials
        return len(self.points)

    def sampler(self, num_done: int, num_points: int | None = None) -> BaseSampler:
        """What draws the points.

        Args:
            num_done: trials that the study has already.
            num_points: as many as the search had when it began, if that was another number.
        Raises:
            UserError: it cannot be made.
        """
        return build_sampler(
            self.settings.sampler,
            seed=self.settings.seed,
            num_done=num_done,
            names=[name_in_optuna(parameter) for parameter in self.space.parameters],
            num_points=self.num_points if num_points is None else num_points,
            seeds=self.settings.seeds,
        )

    def overrides(self, point: Point, repeat: int) -> list[str]:
        seed = [f"seed={self.base_seed + repeat}"] if self.settings.seeds > 1 else []
        return [*self.fixed, *self.space.overrides(point), *seed]

    def signature(self) -> dict[str, Any]:
        """What sweeps that share a study must agree on; plain values, as a storage keeps them."""
        space = {p.key: f"{p.values}{f' where {p.condition}' if p.condition else ''}" for p in self.space.parameters}
        return {
            "objective": self.objective,
            "search.seeds": self.settings.seeds,
            "number of configurations": self.num_points,
            "space": space,
        }


def read_search(
    config: DictConfig, arguments: Sequence[str], loader: SweepConfigLoader, *, is_new: bool = True
) -> Search:
    """The search that a composed config and the overrides of its settings ask for, checked.

    Args:
        config: the sweep's, as Hydra composed it.
        arguments: overrides of settings and groups, sweeps among them.
        is_new: whether the sweep is; one that goes on may have what is refused today.
    Raises:
        UserError: a setting, a space or a job that cannot work.
    """
    with user_errors("`search`: "):
        node: Any = OmegaConf.to_container(config.search, resolve=True)
    parser = OverridesParser.create(config_loader=loader)
    overrides = parser.parse_overrides(list(arguments))
    for override in overrides:
        if override.is_sweep_override():
            _check_is_no_setting_of_the_search(override.key_or_group, str(override.input_line))
            _check_is_no_secret(override.key_or_group)
    kind = config.hydra.runtime.choices.get("search")
    settings = SearchSettings.read(node, kind)
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
                f"`{key}.{below}: {value.get(below)}` in place of `{key}: {{{below}: {value.get(below)}}}`."
            )
    given = _last_of_each([override for override in overrides if not _is_of_search(override.key_or_group)])
    named = {override.key_or_group for override in given}
    entries = [_entry(parser, key, value) for key, value in space_file.items() if key not in named]
    swept = [override for override in (*given, *entries) if override.is_sweep_override()]
    parameters = tuple(parameter_of(override, settings.seed) for override in swept)
    constant = [override for override in (*entries, *given) if not override.is_sweep_override()]
    parameters, fixed, notes = conditional_on_choices(parameters, constant, config, loader)
    objective = config.objective
    one_of(*objectives(config)).check("objective", objective)
    if settings.seeds > 1 and "seed" in (parameter.key for parameter in parameters):
        raise UserError("`seed` is set by search.seeds: search one of the two.")
    # What is fixed in a space file is not in `config`.
    base = config if all(entry in swept for entry in entries) else loader.load_sweep_config(config, fixed)
    space = without_the_impossible(
        Space(parameters, _constants(base, parameters)), named, partial(loader.options, master_config=config)
    )
    for parameter in space.parameters:
        parameter.check_rule()
    space, of_batches = within_the_data(space, base, named)
    notes += of_batches
    RULES["seed"].check("seed", base.seed)
    names = _names_of_folders(given, config)
    search = Search(settings, space, fixed, None, objective, minimizes(config), base.seed, tuple(notes), names)
    search = replace(search, space=_without_the_ineffective(search, given, config, loader, is_new=is_new))
    if settings.sampler is not None and not search.space.parameters:
        raise UserError(
            f"search={kind} has no space: name settings, such as 'optimizer.lr=tag(log,interval(1e-4,1))', or "
            "take search/space=learning_rate."
        )
    if settings.sampler is None:
        points = search.space.grid()
        distinct = without_equals(points, lambda point: loader.load_sweep_config(config, search.overrides(point, 0)))
        if len(distinct) < len(points):
            alike = f"{len(points) - len(distinct)} of {len(points)} configurations"
            note = f"{alike} differ from others in what no run reads: they are left out."
            search = replace(search, notes=(*search.notes, note))
        return replace(search, points=distinct[: settings.num_trials])
    assert settings.num_trials is not None
    all_of_them = search.space.configurations(settings.num_trials)
    if all_of_them is not None:
        random.Random(settings.seed).shuffle(all_of_them)  # what is interrupted has seen some of each
    if all_of_them is None or len(all_of_them) == settings.num_trials:
        return replace(search, points=all_of_them)
    number = f"{len(all_of_them)} configuration{'s' * (len(all_of_them) != 1)}"
    note = f"The space has {number}, each of which is tried once, in place of {settings.num_trials}."
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


def _last_of_each(overrides: Sequence[Override]) -> list[Override]:
    """A key that is given twice has its last value, as in a single run; Hydra sees to those that are not searched."""
    last = {override.get_key_element(): override for override in overrides}
    return [
        override
        for override in overrides
        if override is (final := last[override.get_key_element()])
        or not (override.is_sweep_override() or final.is_sweep_override())
    ]


def _is_of_search(key: str) -> bool:
    return key == "search" or key.startswith(("search.", "search/"))


def _check_is_no_setting_of_the_search(key: str, text: str) -> None:
    """What says how to search, how the sweep runs and what it compares by has one value in all of its trials."""
    if key.startswith("search.space."):
        raise UserError(
            f"{text!r} is searched if it is given by itself: {text.lstrip('+').removeprefix('search.space.')}"
        )
    if _is_of_search(key) or key.startswith(("hydra.", "hydra/")):
        raise UserError(
            f"`{key}` says how to search and has one value, but got {text!r}: run one sweep for each value, or quote a "
            "value that has a comma in it."
        )
    if key == "task":
        raise UserError("`task` says what trials are compared by: run one sweep for each task.")
    if key == "objective":
        raise UserError("`objective` is what trials are compared by: it cannot be searched itself.")


def _check_is_no_secret(key: str) -> None:
    if is_named_secret(key):
        raise UserError(
            f"`{key}` is named like a secret, and the values of a search stand in its tables: give it one value, best "
            f"as {key}='${{oc.env:NAME}}', or rename it."
        )


def _entry(parser: OverridesParser, key: str, value: Any) -> Override:
    """A line of a space file as an override."""
    text = value if isinstance(value, str) else _written(value)
    with user_errors(f"`search.space`, {key}: "):
        _check_is_no_setting_of_the_search(key, f"{key}={text}")
        return parser.parse_override(f"{key}={text}")


def _written(value: Any) -> str:
    import json  # null, true, numbers and lists are written alike

    return json.dumps(value, separators=(",", ":"))


def _constants(config: DictConfig, parameters: Sequence[Parameter]) -> dict[str, Any]:
    """What the keys of conditions are where they are not searched: the choice of a group, or a setting."""
    choices = config.hydra.runtime.choices
    constants = {}
    for key in {parameter.condition.key for parameter in parameters if parameter.condition is not None}:
        value = choices[key] if key in choices else OmegaConf.select(config, key, default=_ABSENT)
        if value is not _ABSENT:
            constants[key] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    return constants


def _without_the_ineffective(
    search: Search, given: Sequence[Override], config: DictConfig, loader: SweepConfigLoader, *, is_new: bool
) -> Space:
    """The space without what makes no difference to any trial, said in a line each.

    Raises:
        UserError: that was given on the command line, and is no note; or a job cannot work.
    """

    def compose(point: Point) -> DictConfig:
        return loader.load_sweep_config(config, search.overrides(point, search.settings.seeds - 1))

    jobs = _check_jobs(search, config, loader)
    added = [override for override in given if override.is_add() or override.is_force_add()]
    lines, origin = [str(override.input_line) for override in given], Origin.of(config.hydra, config_folder())
    for override in added:
        for point, job in jobs:
            if override.key_or_group in point or str(override.input_line) in search.fixed:
                refuse_untaken(str(override.input_line), job, origin)
    kept = list(search.space.parameters)
    for key, reason in without_effect(search.space, jobs, compose).items():
        line = next((str(override.input_line) for override in added if override.key_or_group == key), None)
        if line is not None:
            if is_new and not is_note(key) and not is_interpolated(key, config.hydra):
                refuse_unread(line, lines, origin, reason)
            log.warning("`%s` has no effect: %s.", key, reason)
        elif any(override.key_or_group == key for override in given):
            raise UserError(f"`{key}` has no effect on any trial, as {reason}: take it out of the search.")
        else:
            log.warning("`%s` is not searched: it has no effect, as %s.", key, reason)
            kept.remove(search.space[key])
    point, job = jobs[0]
    overrides = search.overrides(point, 0)
    for override in added:
        line, key = str(override.input_line), override.key_or_group
        why = is_unread(job, key)
        if line in search.fixed and why and not (is_note(key) or is_interpolated(key, config.hydra)):
            without = [other for other in overrides if other != line]
            try:
                is_used = read_settings(loader.load_sweep_config(config, without)) != read_settings(compose(point))
            except (ConfigCompositionException, OmegaConfBaseException):
                is_used = True  # something is made of it
            if not is_used:
                if is_new:
                    refuse_unread(line, lines, origin, why)
                log.warning("%r has no effect: %s.", line, why)
    return Space(tuple(kept), search.space.constants)


def _check_jobs(search: Search, config: DictConfig, loader: SweepConfigLoader) -> list[tuple[Point, DictConfig]]:
    """Compose and check a job with the first values, one with the last, one for each choice that decides more, and one
    for each parameter with a condition.
    """
    space = search.space

    def extreme(parameter: Parameter, last: bool, given: Mapping[str, Any] = MappingProxyType({})) -> Any:
        values = parameter.values
        if parameter.key in given:
            return given[parameter.key]
        if isinstance(values, Scale):
            return values.high if last else values.low
        return values.elements[-1 if last else 0]

    points = [space.draw(partial(extreme, last=last)) for last in (False, True)]
    for parameter in space.parameters:
        if isinstance(parameter.values, Choice):
            is_group = loader.is_group(parameter.key, config)
            points += [
                space.draw(partial(extreme, last=False, given={parameter.key: element}))
                for element in parameter.values.elements
                if is_group or is_interpolation(parameter.value(element))
            ]
    for parameter in space.parameters:
        if all(parameter.key not in point for point in points):
            points.append(space.draw(partial(extreme, last=False, given=space.where_active(parameter))))
    jobs: dict[tuple[str, ...], tuple[Point, DictConfig]] = {}
    for point in points:
        overrides = search.overrides(point, search.settings.seeds - 1)
        if tuple(overrides) not in jobs:
            jobs[tuple(overrides)] = point, _check_job(overrides, point, space, config, loader)
    _check_early([job for _, job in jobs.values()])
    return list(jobs.values())


def _check_early(jobs: Sequence[DictConfig]) -> None:
    """Refuse a sweep that no job of which can work; where some can, the others are trials that fail.

    Raises:
        UserError: why the first cannot.
    """
    errors = []
    for job in jobs:
        try:
            check_early(job)
            return
        except UserError as error:
            errors.append(error)
    raise errors[0]


def _check_job(
    overrides: list[str], point: Point, space: Space, config: DictConfig, loader: SweepConfigLoader
) -> DictConfig:
    try:
        job = loader.load_sweep_config(config, overrides)
    except ConfigCompositionException as error:
        for parameter in space.parameters:
            if parameter.key in point and f"Could not override '{parameter.key}'" in str(error):
                groups = [f"{key}={value}" for key, value in point.items() if loader.is_group(key, config)]
                if groups:
                    raise UserError(
                        f"`{parameter.key}` does not exist with {', '.join(groups)}: say where it does, "
                        f"such as {parameter.key}=tag('{groups[0].partition('=')[0]}=...', ...)."
                    ) from None
        raise UserError(one_line(error)) from error
    with open_dict(job):
        del job["hydra"]
    check(job)
    return job
