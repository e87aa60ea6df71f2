"""The design of a study: how many configurations of which space to try, with how many seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

from bnlab.search.spaces.parameter import Point
from bnlab.search.spaces.space import Space

__all__ = ["Design"]


@dataclass(frozen=True)
class Design:
    """`num_points` configurations of `space`, each with `seeds` seeds.

    Attributes:
        points: the points of a grid; None if the sampler draws them.
    """

    space: Space
    num_points: int
    seeds: int
    points: Sequence[Point] | None = None

    @property
    def num_trials(self) -> int:
        return self.num_points * self.seeds

    @property
    def may_repeat(self) -> bool:
        """Whether a sampler can draw one configuration twice."""
        return self.points is None and self.space.may_repeat
