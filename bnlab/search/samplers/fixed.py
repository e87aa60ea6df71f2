"""Give Optuna known values when it asks for a draw."""

from typing import Any

from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial

from bnlab.search.samplers.place import PlaceSampler

__all__ = ["FixedSampler"]


class FixedSampler(PlaceSampler):
    """Returns the values that it was created with."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._values[param_name]
