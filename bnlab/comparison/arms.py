"""Runs as a comparison sees them, and the arms that they make: runs equal but for the seed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bnlab.comparison.settings import Settings
from bnlab.status import Status

__all__ = ["Arm", "Result"]


@dataclass(frozen=True)
class Result:
    """What one run came to.

    Attributes:
        name: where it is, as it is shown.
        owner: the folder that it was asked for by: its own, or that of a sweep.
        settings: all but the seed.
        error: why it failed.
        values: val_accuracy and the like at the best epoch, and test_accuracy and the like; what there is of them.
        curves: the columns of metrics.csv.
        objective: the name of the metric that picked the best epoch.
        minimize: whether a lower one is better.
    """

    name: str
    owner: str
    settings: Settings
    seed: int
    status: Status
    error: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    objective: str = "val_accuracy"
    minimize: bool = False


@dataclass(frozen=True)
class Arm:
    """Runs that differ in nothing but the seed.

    Attributes:
        label: what sets it apart from the others, in a line.
        settings: those that differ between the arms, as text, by their keys; one that it does not have is left out.
        results: one a seed.
    """

    label: str
    settings: Mapping[str, str]
    results: tuple[Result, ...]

    @property
    def statuses(self) -> Counter[Status]:
        return Counter(result.status for result in self.results)

    def values(self, metric: str) -> dict[int, float]:
        """By seed, of the runs that count: those that ended by themselves or, without any such, of all."""
        counted = [result for result in self.results if result.status.is_ranked] or self.results
        return {result.seed: result.values[metric] for result in counted if metric in result.values}

    def runs(self) -> str:
        """As "5", or "5 (2 diverged)" where some did not complete; of a single run its status."""
        number = len(self.results)
        if number == 1:
            return self.results[0].status
        others = [
            f"{count} {status}" for status, count in sorted(self.statuses.items()) if status is not Status.COMPLETED
        ]
        return f"{number} ({', '.join(others)})" if others else str(number)
