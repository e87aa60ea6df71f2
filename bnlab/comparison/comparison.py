"""A comparison of runs and sweeps: their arms, the table and the figure."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bnlab.comparison.arms import Arm
from bnlab.comparison.grouping import arms_of
from bnlab.comparison.reading import read_results
from bnlab.comparison.table import Table, baselines, make_table, metrics_of
from bnlab.comparison.title import title_of
from bnlab.status import Status

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Comparison", "compare"]

_MANY = 20  # arms; with this many, the best come first


@dataclass(frozen=True)
class Comparison:
    arms: Sequence[Arm]
    table: Table
    remarks: Sequence[str] = ()  # on trials that wrote nothing to compare

    def figure(self) -> "Figure":
        """Draw the learning curves of all arms in the same panels."""
        from bnlab.figures import Series  # matplotlib takes half a second
        from bnlab.figures import compare as draw

        series = []
        for number, arm in enumerate(self.arms, 1):
            drawn = [result for result in arm.results if result.curves.get("epoch")]
            label = f"{number}: {arm.label}{_remark(arm)}" if len(self.arms) > 1 else f"{arm.label}{_remark(arm)}"
            unsteady = [result.status == Status.DIVERGED for result in drawn]
            series.append(Series(label, [result.curves for result in drawn], unsteady))
        title = title_of(self.arms)
        if any(len(one.runs) > 1 for one in series):
            title += "; band: ± one standard deviation"
        return draw(series, title, _quantities(self.arms))

    def failures(self) -> list[str]:
        """Return one line per run that failed, with its error, and per trial that wrote nothing."""
        results = [result for arm in self.arms for result in arm.results]
        failed = [f"{result.name} failed: {result.error}" for result in results if result.status == Status.FAILED]
        return [*failed, *self.remarks]


def compare(paths: Sequence[str | Path], *, baseline: str | None = None) -> Comparison:
    """Compare runs and sweeps.

    Args:
        paths: folders of runs and of sweeps.
        baseline: settings of the arm that the others are compared with, such as "norm=none"; None for the first arm.
    Raises:
        UserError: a folder is neither a run nor a sweep, or cannot be read; none has metrics; or no arm has the
            baseline's settings.
    """
    results, remarks = read_results(list(map(Path, paths)))
    keys, arms = arms_of(results)
    metrics = metrics_of(arms)
    are_sorted = len(arms) > _MANY
    if are_sorted:
        arms = sorted(arms, key=lambda arm: _rank(arm, metrics[0], results[0].minimize))
    chosen = are_sorted and baseline is None
    table = make_table(keys, arms, metrics, baselines(keys, arms, baseline), is_chosen=chosen)
    return Comparison(arms, table, remarks)


def _quantities(arms: Sequence[Arm]) -> list[str]:
    """List the validation metrics: the loss, and the others in metrics.csv."""
    columns = dict.fromkeys(name for arm in arms for result in arm.results for name in result.curves)
    names = [name.removeprefix("val_") for name in columns if name.startswith("val_")]
    return sorted(names, key=lambda name: name != "loss")


def _rank(arm: Arm, metric: str, minimize: bool) -> float:
    """Return a sort key: the best arm first, arms without a value last."""
    values = arm.values(metric).values()
    if not values:
        return math.inf
    return math.fsum(values) / len(values) * (1 if minimize else -1)


def _remark(arm: Arm) -> str:
    """Say how many runs did not complete, and why: " (2 of 5 diverged)"."""
    others = Counter({status: count for status, count in arm.statuses.items() if status is not Status.COMPLETED})
    number = len(arm.results)
    parts = [status if number == 1 else f"{count} of {number} {status}" for status, count in sorted(others.items())]
    return f" ({', '.join(parts)})" if parts else ""
