"""From the command line to a search: the settings, the space, and what every job has in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf, open_dict

from bnlab.config import check
from bnlab.errors import UserError, one_line, user_errors
from bnlab.rules import one_of
from bnlab.search.composition import SweepConfigLoader
from bnlab.search.scales import Scale
from bnlab.search.settings import SearchSettings
from bnlab.search.space import Choice, Parameter, Point, Space, is_interpolation, parameter_of

__all__ = ["Search", "read_search"]

OBJECTIVES = one_of("val_accuracy", "val_loss")

_ABSENT = object()  # null is a value


@dataclass(frozen=True)
class Search:
    """What to search, and how.

    Attributes:
        settings: of `search`.
        space: what varies.
        fixed: overrides that every job has.
        points: of a grid, else None.
        objective: its name.
        base_seed: the seed of the first of `search.seeds` runs.
    """

    settings: SearchSettings
    space: Space
    fixed: list[str]
    points: list[Point] | None
    objective: str
    base_seed: int

    @property
    def minimize(self) -> bool:
        return self.objective == "val_loss"

    @property
    def num_points(self) -> int:
        if self.points is None:
            assert self.settings.num_trials is not None
            return self.settings.num_trials
        return len(self.points)

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


def read_search(config: DictConfig, arguments: Sequence[str], loader: SweepConfigLoader) -> Search:
    """The search that a composed config and the overrides of its settings ask for, checked.

    Args:
        config: the sweep's, as Hydra composed it.
        arguments: overrides of settings and groups, sweeps among them.
    Raises:
        UserError: a setting, a space or a job that cannot work.
    """
    with user_errors("`search`: "):
        node: Any = OmegaConf.to_container(config.search, resolve=True)
    settings = SearchSettings.read(node)
    parser = OverridesParser.create(config_loader=loader)
    overrides = parser.parse_overrides(list(arguments))
    given = _last_of_each([override for override in overrides if not _is_of_search(override)])
    named = {override.key_or_group for override in given}
    entries = [_entry(parser, key, value) for key, value in node["space"].items() if key not in named]
    swept = [override for override in (*given, *entries) if override.is_sweep_override()]
    fixed = [str(override.input_line) for override in (*entries, *given) if not override.is_sweep_override()]
    parameters = tuple(parameter_of(override, settings.seed) for override in swept)
    objective = config.objective
    OBJECTIVES.check("objective", objective)
    keys = [parameter.key for parameter in parameters]
    if "objective" in keys:
        raise UserError("`objective` is what trials are compared by: it cannot be searched itself.")
    if settings.seeds > 1 and "seed" in keys:
        raise UserError("`seed` is set by search.seeds: search one of the two.")
    space = _drop_what_is_never_active(Space(parameters, _constants(config, parameters)))
    for parameter in space.parameters:
        parameter.check_rule()
    if settings.kind != "grid" and not space.parameters:
        raise UserError(
            f"search={settings.kind} has no space: name settings, such as 'optimizer.lr=tag(log,interval(1e-4,1))', or "
            "take search/space=learning_rate."
        )
    points = None
    if settings.kind == "grid":
        points = space.grid()[: settings.num_trials]
    search = Search(settings, space, fixed, points, objective, int(config.seed))
    _check_jobs(search, config, loader)
    return search


def _last_of_each(overrides: Sequence[Override]) -> list[Override]:
    """A key that is given twice has its last value, as in a single run; Hydra sees to those that are not searched."""
    last = {override.get_key_element(): override for override in overrides}
    return [
        override
        for override in overrides
        if override is (final := last[override.get_key_element()])
        or not (override.is_sweep_override() or final.is_sweep_override())
    ]


def _is_of_search(override: Override) -> bool:
    key = override.key_or_group
    return key in ("search", "search/space") or key.startswith("search.")


def _entry(parser: OverridesParser, key: str, value: Any) -> Override:
    """A line of a space file as an override."""
    text = value if isinstance(value, str) else _written(value)
    with user_errors(f"`search.space`, {key}: "):
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


def _drop_what_is_never_active(space: Space) -> Space:
    """Without parameters that depend on a choice which is fixed otherwise, such as Adam's with optimizer=sgd."""
    keys = {parameter.key for parameter in space.parameters}
    kept = tuple(
        parameter
        for parameter in space.parameters
        if parameter.condition is None
        or parameter.condition.key in keys
        or parameter.condition.holds(space.constants[parameter.condition.key])
    )
    return space if len(kept) == len(space.parameters) else _drop_what_is_never_active(Space(kept, space.constants))


def _check_jobs(search: Search, config: DictConfig, loader: SweepConfigLoader) -> None:
    """Compose and check a job with the first values, one with the last, and one for each choice that decides more."""
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
    checked: set[tuple[str, ...]] = set()
    for point in points:
        overrides = search.overrides(point, search.settings.seeds - 1)
        if tuple(overrides) not in checked:
            checked.add(tuple(overrides))
            _check_job(overrides, point, space, config, loader)


def _check_job(overrides: list[str], point: Point, space: Space, config: DictConfig, loader: SweepConfigLoader) -> None:
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
