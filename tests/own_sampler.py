"""Samplers of a user's own: a sequence of points, one that is Optuna's, and some that do not work."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from bnlab.search import PlaceSampler


class Additive(PlaceSampler):
    """The point of place n is (n + 1) step modulo 1 in the coordinate of the parameter, an exponent on a log scale.

    With the golden section as `step`, the points keep their distance; `seed` moves them.
    """

    def __init__(self, seed: int, step: float) -> None:
        self._seed = seed
        self._step = step

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        place = trial.user_attrs.get("point", trial.number)
        assert isinstance(param_distribution, FloatDistribution)
        low, high = np.log(param_distribution.low), np.log(param_distribution.high)
        return np.exp(low + (high - low) * (((place + 1) * self._step + self._seed / 10) % 1))  # a number of NumPy's


class Learning(RandomSampler):
    """Knows nothing of bnlab: half of what the best had, once there is one."""

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if any(other.state == TrialState.COMPLETE for other in study.get_trials(deepcopy=False)):
            return study.best_params[param_name] / 2
        return super().sample_independent(study, trial, param_name, param_distribution)


class Together(RandomSampler):
    """Draws the seed together with what it is asked for at once; it counts down."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {"seed": IntDistribution(1, 5)}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {"seed": 5 - trial.number}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        assert isinstance(param_distribution, CategoricalDistribution), param_name
        return param_distribution.choices[-1]


class Raising(RandomSampler):
    """Raises at its `after`-th draw, or at the end of a trial."""

    def __init__(self, after: int, at_end: bool = False) -> None:
        super().__init__(seed=0)
        self._left = after
        self._at_end = at_end

    def sample_independent(self, *arguments: Any) -> Any:
        self._left -= 1
        if self._left < 0 and not self._at_end:
            raise ZeroDivisionError("the mean of nothing\nis nothing")
        return super().sample_independent(*arguments)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        if self._at_end:
            raise ZeroDivisionError("the mean of nothing\nis nothing")


class Outside(RandomSampler):
    """Draws what no parameter can be."""

    def __init__(self, value: Any) -> None:
        super().__init__(seed=0)
        self._value = value

    def sample_independent(self, *arguments: Any) -> Any:
        return self._value
