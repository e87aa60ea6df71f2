"""Define what a sweep needs to know of a sampler beside its draws."""

from abc import ABC, abstractmethod
from typing import Final

from optuna.samplers import BaseSampler

__all__ = ["ALL_PLACES", "SweepSampler"]

ALL_PLACES: Final = 2**62  # more than any search has


class SweepSampler(BaseSampler, ABC):
    """A sampler that declares how many configurations it can draw at once.

    From any other Optuna sampler, a sweep draws as many at once as the launcher trains at once, so that the sampler
    learns from all available results. If draws could repeat, a `SweepSampler` draws each parameter separately.
    """

    @abstractmethod
    def places_per_round(self, num_places: int) -> int | None:
        """Return the length of a round, within which no draw needs the result of another.

        Args:
            num_places: the number of configurations drawn so far.
        Returns:
            a number of places, `ALL_PLACES` if results do not matter, or None if each draw needs all of them.
        """
