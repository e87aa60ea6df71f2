"""Define what a sweep asks of a sampler beside its draws."""

from abc import ABC, abstractmethod
from typing import Final

from optuna.samplers import BaseSampler

__all__ = ["ALL_PLACES", "SweepSampler"]

ALL_PLACES: Final = 2**62  # more than any search has


class SweepSampler(BaseSampler, ABC):
    """A sampler that says how many configurations it can draw at once.

    Of any other sampler of Optuna's, a sweep draws as many at once as the launcher trains at once, so that the sampler
    learns from all results that there are. Where draws could repeat, a `SweepSampler` draws each parameter by itself.
    """

    @abstractmethod
    def places_per_round(self, num_places: int) -> int | None:
        """Return the length of a round, within which no draw needs the result of another.

        Args:
            num_places: how many configurations are drawn already.
        Returns:
            a number of places, `ALL_PLACES` where results do not matter, or None where each draw needs all of them.
        """
