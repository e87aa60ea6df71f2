"""Compose and check the jobs at the ends of a space before any of them runs."""

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, open_dict

from bnlab.config.checking import check
from bnlab.errors import UserError, one_line
from bnlab.preflight import check_early
from bnlab.search.definition.composition import SweepConfigLoader
from bnlab.search.definition.search import Search
from bnlab.search.spaces.parameter import Choice, Parameter, Point, is_interpolation
from bnlab.search.spaces.scales import Scale
from bnlab.search.spaces.space import Space

__all__ = ["check_jobs"]


def check_jobs(search: Search, config: DictConfig, loader: SweepConfigLoader) -> list[tuple[Point, DictConfig]]:
    """Compose and check jobs that together cover the ends of every range and every choice of a group.

    These are a job with the first values, one with the last, one for each choice of a group or of interpolated values,
    and one for each parameter with a condition.
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
    """Refuse a sweep if none of its jobs can work; if some can, the others become trials that fail.

    Raises:
        UserError: none can work; the error gives the reason for the first.
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
