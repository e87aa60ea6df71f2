"""Define a search: its settings, its space, and what its jobs have in common."""

from dataclasses import dataclass
from typing import Any

from optuna.samplers import BaseSampler

from bnlab.metrics import worst_of
from bnlab.search.definition.settings import SearchSettings
from bnlab.search.samplers.building import build_sampler
from bnlab.search.spaces.distributions import name_in_optuna
from bnlab.search.spaces.parameter import Point
from bnlab.search.spaces.space import Space

__all__ = ["Search"]


@dataclass(frozen=True)
class Search:
    """A search, read and checked.

    Attributes:
        settings: the settings under `search`.
        space: the parameters that vary.
        fixed: the overrides of all jobs.
        points: all points if they are known, as in a grid, else None.
        objective: the name of the metric.
        minimize: whether a lower objective is better.
        base_seed: the seed of the first of `search.seeds` runs.
        notes: sentences about changes to the search that the user should know.
        names: settings added only for the names of the trials' folders, such as `who` in
            `+who=me,you hydra.sweep.subdir='${who}'`; a single run would refuse them.
    """

    settings: SearchSettings
    space: Space
    fixed: list[str]
    points: list[Point] | None
    objective: str
    minimize: bool
    base_seed: int
    notes: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()

    @property
    def worst(self) -> float:
        """Return the objective that stands for a training without a finite epoch."""
        return worst_of(self.objective, minimize=self.minimize)

    @property
    def num_points(self) -> int:
        if self.points is None:
            assert self.settings.num_trials is not None
            return self.settings.num_trials
        return len(self.points)

    def sampler(self, num_done: int, num_points: int | None = None) -> BaseSampler:
        """Make the sampler that draws the points.

        Args:
            num_done: the number of trials in the study.
            num_points: the number of configurations when the search began, if it was another one.
        Raises:
            UserError: it cannot be made.
        """
        return build_sampler(
            self.settings.sampler,
            seed=self.settings.seed,
            num_done=num_done,
            names=[name_in_optuna(parameter) for parameter in self.space.parameters],
            num_points=self.num_points if num_points is None else num_points,
            seeds=self.settings.seeds,
        )

    def overrides(self, point: Point, repeat: int) -> list[str]:
        seed = [f"seed={self.base_seed + repeat}"] if self.settings.seeds > 1 else []
        return [*self.fixed, *self.space.overrides(point), *seed]

    def signature(self) -> dict[str, Any]:
        """Return what sweeps that share a study must agree on, as plain values that a storage can hold."""
        space = {p.key: f"{p.values}{f' where {p.condition}' if p.condition else ''}" for p in self.space.parameters}
        return {
            "objective": self.objective,
            "search.seeds": self.settings.seeds,
            "number of configurations": self.num_points,
            "space": space,
        }
