"""The runs of a comparison, and its arms: groups of runs that are equal but for the seed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bnlab.comparison.settings import Settings
from bnlab.status import Status

__all__ = ["Arm", "Result"]


@dataclass(frozen=True)
class Result:
    """The result of one run.

    Attributes:
        name: its folder, as shown to the user.
        owner: the folder that the user named: the run's own, or its sweep's.
        settings: all except the seed.
        error: why it failed.
        values: the available metrics, such as val_accuracy at the best epoch and test_accuracy.
        curves: the columns of metrics.csv.
        objective_name: the metric that determined the best epoch.
        minimize: whether a lower objective is better.
    """

    name: str
    owner: str
    settings: Settings
    seed: int
    status: Status
    error: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    objective_name: str = "val_accuracy"
    minimize: bool = False


@dataclass(frozen=True)
class Arm:
    """Runs that differ in nothing but the seed.

    Attributes:
        label: one line that distinguishes it from the other arms.
        settings: those that differ between the arms, as text by key, without those that it does not have.
        results: one per seed.
    """

    label: str
    settings: Mapping[str, str]
    results: tuple[Result, ...]

    @property
    def statuses(self) -> Counter[Status]:
        return Counter(result.status for result in self.results)

    def values(self, metric: str) -> dict[int, float]:
        """Return the values by seed of the runs that ended by themselves or, if there are none, of all runs."""
        counted = [result for result in self.results if result.status.is_ranked] or self.results
        return {result.seed: result.values[metric] for result in counted if metric in result.values}

    def runs(self) -> str:
        """Return "5", or "5 (2 diverged)" if some did not complete; for a single run, its status."""
        number = len(self.results)
        if number == 1:
            return self.results[0].status
        others = [
            f"{count} {status}" for status, count in sorted(self.statuses.items()) if status is not Status.COMPLETED
        ]
        return f"{number} ({', '.join(others)})" if others else str(number)
