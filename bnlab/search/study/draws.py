"""The values of the trials that a sweep takes: drawn by the sampler, or copied from another try or seed."""

import copy
import time
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from bnlab.search.samplers.fixed import FixedSampler
from bnlab.search.samplers.guard import draws_together
from bnlab.search.samplers.place import AGAIN, POINT
from bnlab.search.samplers.random_draws import RandomSampler
from bnlab.search.spaces.distributions import distribution_of, from_optuna, name_in_optuna, to_optuna
from bnlab.search.spaces.parameter import Parameter, Point
from bnlab.search.study.design import Design
from bnlab.search.study.own_study import OwnStudy
from bnlab.search.study.trials import REPEAT, Trial
from bnlab.status import Status

__all__ = ["Draws", "params_of"]

_WAIT_FOR_SIBLING_S = 10.0
_REDRAWS = 200


def params_of(trial: FrozenTrial) -> dict[str, Any]:
    """Return the values that a trial has or will have, in Optuna's terms."""
    params: dict[str, Any] = trial.params or trial.system_attrs.get("fixed_params", {})
    return params


class Draws:
    """Draws the values for the places of a design that have none yet.

    Attributes:
        drawn: the values by place, in Optuna's terms, as of the last `look`.
    """

    def __init__(self, own: OwnStudy, design: Design) -> None:
        self._own = own
        self._design = design
        self.drawn: dict[int, dict[str, Any]] = {}
        self._params_of_point: dict[int, dict[str, Any]] = {}

    def look(self) -> None:
        """Update `drawn` from the study."""
        for trial in self._own.trials():
            if params := params_of(trial):
                self.drawn.setdefault(trial.user_attrs.get(POINT, trial.number), params)

    def untried(self) -> list[dict[str, Any]]:
        """Return the points of a grid that no place has, in Optuna's terms."""
        tried = set(map(_text, self.drawn.values()))
        of_points = [self._in_optuna(point) for point in self._design.points or ()]
        return [params for params in of_points if _text(params) not in tried]

    def _in_optuna(self, point: Point) -> dict[str, Any]:
        return {
            name_in_optuna(self._design.space[key]): to_optuna(self._design.space[key], value)
            for key, value in point.items()
        }

    def draw(self, frozen: FrozenTrial) -> Trial:
        """Return the trial `frozen`, which this sweep has taken, with missing values drawn."""
        place = frozen.user_attrs.get(POINT, frozen.number)
        repeat = frozen.user_attrs.get(REPEAT, 0)
        params = self._params_of(place) if repeat else None
        if params is None and self._design.may_repeat and not frozen.system_attrs.get("fixed_params"):
            params = self._drawn_anew(frozen, place)
        sampler = self._own.study.sampler
        if params is not None:
            self._own.study.sampler = FixedSampler(params)
        try:
            trial = optuna.Trial(self._own.study, self._own.id_of(frozen))
            values = self._design.space.draw(lambda parameter: _suggest(trial, parameter))
        finally:
            self._own.study.sampler = sampler
        if self._design.seeds > 1:
            self._params_of_point[place] = trial.params
        if self._design.may_repeat:
            self.drawn[place] = trial.params
        return Trial(frozen.number, place, repeat, Status.RUNNING, values=values)

    def _drawn_anew(self, frozen: FrozenTrial, place: int) -> dict[str, Any]:
        """Draw until the configuration is one that no other place has, since two equal ones would train alike."""
        if not self._own.is_private:
            self.look()
        others = {_text(params) for other, params in self.drawn.items() if other != place}
        sampler: BaseSampler = self._own.study.sampler
        sampler.before_trial(self._own.study, frozen)
        together: dict[str, BaseDistribution] = {}
        relative: dict[str, Any] = {}
        if draws_together(sampler):  # only once: a repeated draw is replaced parameter by parameter
            together = sampler.infer_relative_search_space(self._own.study, frozen)
            relative = sampler.sample_relative(self._own.study, frozen, together)
        for again in range(_REDRAWS):
            trial = copy.copy(frozen)
            trial.user_attrs = frozen.user_attrs | ({AGAIN: again} if again else {})
            params: dict[str, Any] = {}

            def value_of(parameter: Parameter) -> Any:
                name, distribution = name_in_optuna(parameter), distribution_of(parameter)
                if not again and name in relative and together[name] == distribution:  # noqa: B023
                    params[name] = relative[name]  # noqa: B023
                else:
                    params[name] = sampler.sample_independent(self._own.study, trial, name, distribution)  # noqa: B023
                return from_optuna(parameter, params[name])  # noqa: B023

            self._design.space.draw(value_of)
            if _text(params) not in others:
                break
            if again == _REDRAWS // 2:  # a sampler that learns may have converged
                sampler = RandomSampler(place)
        return params

    def _params_of(self, point: int) -> dict[str, Any] | None:
        """Return the values of another seed of the configuration, which another machine may be drawing right now."""
        deadline = time.monotonic() + _WAIT_FOR_SIBLING_S
        while point not in self._params_of_point:
            siblings = [
                trial
                for trial in self._own.trials()
                if trial.user_attrs.get(POINT) == point and trial.user_attrs.get(REPEAT) == 0 and trial.params
            ]
            complete = [trial for trial in siblings if self.has_all(trial)]
            if complete:
                self._params_of_point[point] = complete[-1].params
            elif time.monotonic() > deadline:
                return None
            else:
                time.sleep(0.05)
        return self._params_of_point[point]

    def has_all(self, trial: FrozenTrial) -> bool:
        """Whether `trial` has a value for each of its parameters."""
        point: Point = {}
        for parameter in self._design.space.in_order_of_dependence():
            if self._design.space.is_active(parameter, point):
                name = name_in_optuna(parameter)
                if name not in trial.params:
                    return False
                point[parameter.key] = from_optuna(parameter, trial.params[name])
        return True


def _text(params: Mapping[str, Any]) -> str:
    return repr(sorted(params.items()))


def _suggest(trial: optuna.Trial, parameter: Parameter) -> Any:
    name, distribution = name_in_optuna(parameter), distribution_of(parameter)
    if isinstance(distribution, FloatDistribution):
        value: Any = trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
    elif isinstance(distribution, IntDistribution):
        value = trial.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    else:
        assert isinstance(distribution, CategoricalDistribution)
        value = trial.suggest_categorical(name, distribution.choices)
    return from_optuna(parameter, value)
