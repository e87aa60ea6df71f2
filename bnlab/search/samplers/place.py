"""Draw as a function of the seed and the place in the search alone.

So a resumed search draws what the uninterrupted one would have drawn.

In a sweep, a trial carries its place in the user attribute "point" (a trial that repeats another has the other's
place); in any other Optuna study, the place is the trial's number.
"""

import hashlib
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial

from bnlab.search.samplers.sweep_sampler import ALL_PLACES, SweepSampler

__all__ = ["AGAIN", "POINT", "REPEAT", "PlaceSampler", "again_of", "place_of", "seed_from", "uniform"]

# A trial's user attributes
POINT = "point"
AGAIN = "again"  # how often its place was drawn before, each time with the configuration of another place
REPEAT = "repeat"  # the index of its seed among search.seeds, from 0


class PlaceSampler(SweepSampler):
    """Draws each parameter separately, as a function of the seed and the place (`uniform`, `place_of`).

    In a sweep, it always gets `search.seed` unchanged, and all its trials can be drawn at once.
    """

    def places_per_round(self, num_places: int) -> int | None:
        return ALL_PLACES

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}


def place_of(trial: FrozenTrial) -> int:
    return trial.user_attrs.get(POINT, trial.number)


def again_of(trial: FrozenTrial) -> tuple[int, ...]:
    """Return the number of earlier draws of the same place, if there were any."""
    return (trial.user_attrs[AGAIN],) if AGAIN in trial.user_attrs else ()


def uniform(*parts: Any) -> float:
    """Hash the parts to a number in [0, 1) with 53 random-looking bits, the same on every machine."""
    return (_digest(*parts) >> 11) / 2**53


def seed_from(*parts: Any) -> int:
    return _digest(*parts) >> 32


def _digest(*parts: Any) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big")
