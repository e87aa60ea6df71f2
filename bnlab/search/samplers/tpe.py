"""Adapt Optuna's tree-structured Parzen estimator to sweeps."""

from optuna.samplers import TPESampler as OptunasTPESampler

from bnlab.rules import integer
from bnlab.search.samplers.sweep_sampler import SweepSampler

__all__ = ["TPESampler"]


class TPESampler(OptunasTPESampler, SweepSampler):
    """Draws the first configurations at random, and the others near the good ones.

    Trials that are still running count as poor, so that those in one batch spread out.

    Args:
        seed: the seed of the draws.
        num_startup: the number of random configurations.
        seeds: the number of trials per configuration.
    """

    def __init__(self, seed: int | None = None, num_startup: int = 10, seeds: int = 1) -> None:
        integer(minimum=1).check("search.num_startup", num_startup)
        super().__init__(seed=seed, n_startup_trials=num_startup * seeds, constant_liar=True)
        self._num_startup = num_startup

    def places_per_round(self, num_places: int) -> int | None:
        return self._num_startup if num_places < self._num_startup else None
