"""Draw independently: random search."""

from typing import Any

from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial

from bnlab.search.samplers.place import PlaceSampler, again_of, place_of, uniform
from bnlab.search.spaces.distributions import value_at

__all__ = ["RandomSampler"]


class RandomSampler(PlaceSampler):
    """Draws uniformly on each parameter's scale, as a function of (seed, place, name)."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return value_at(param_distribution, uniform(self._seed, place_of(trial), param_name, *again_of(trial)))
