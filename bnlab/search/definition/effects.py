"""Find the parameters and points that do not change what a run reads."""

from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import DictConfig

from bnlab.config.read_settings import NOTHING_READS_IT, is_unread, may_be_unread, read_settings
from bnlab.search.spaces.parameter import Parameter, Point
from bnlab.search.spaces.scales import Scale
from bnlab.search.spaces.space import Space

__all__ = ["without_effect", "without_equals"]

_MOST_COMPOSED = 10_000  # configs, each of which takes milliseconds


def without_effect(
    space: Space, jobs: Sequence[tuple[Point, DictConfig]], compose: Callable[[Point], DictConfig]
) -> dict[str, str]:
    """Return the parameters whose value makes no difference in any of `jobs`, by key, with the reason.

    A setting that a run reads has an effect. Another one, such as model.num_units, may have an effect through settings
    that interpolate it: those that a run reads are compared between two of its values.

    Args:
        jobs: points of the space that cover all parameters, and their composed configs.
        compose: composes the config of a point.
    """
    conditions = {parameter.condition.key for parameter in space.parameters if parameter.condition is not None}
    found = {}
    for parameter in space.parameters:
        of_it = [(point, job) for point, job in jobs if parameter.key in point]
        reasons = [is_unread(job, parameter.key) for _, job in of_it]
        if parameter.key in conditions or None in reasons or len(_elements(parameter)) < 2:
            continue
        if not any(_makes_a_difference(parameter, point, job, compose) for point, job in of_it):
            found[parameter.key] = str(reasons[0])
    return found


def without_equals(points: list[Point], compose: Callable[[Point], DictConfig]) -> list[Point]:
    """Drop the points that train as an earlier one does, such as two values of model.num_units without hidden layers.

    Settings that the user added and nothing reads still distinguish points.
    """
    if len(points) > _MOST_COMPOSED or not any(may_be_unread(key) for point in points for key in point):
        return points
    distinct: dict[str, Point] = {}
    for point in points:
        job = compose(point)
        added = {key: value for key, value in point.items() if is_unread(job, key) == NOTHING_READS_IT}
        distinct.setdefault(f"{read_settings(job)} {added}", point)
    return list(distinct.values())


def _makes_a_difference(
    parameter: Parameter, point: Point, job: DictConfig, compose: Callable[[Point], DictConfig]
) -> bool:
    here = read_settings(job)
    others = [element for element in _elements(parameter) if element != point[parameter.key]]
    return any(read_settings(compose({**point, parameter.key: element})) != here for element in others)


def _elements(parameter: Parameter) -> Sequence[Any]:
    values = parameter.values
    return (values.low, values.high) if isinstance(values, Scale) else values.elements
