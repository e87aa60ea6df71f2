"""The table of an ablation: mean ± deviation over the seeds of each arm, and its difference from a baseline."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from bnlab.comparison.arms import Arm
from bnlab.comparison.statistics import CONFIDENCE, Difference, Estimate, difference, estimate
from bnlab.errors import UserError
from bnlab.status import Status
from bnlab.text.number_format import metric as metric_text

__all__ = ["Row", "Table", "baselines", "make_table", "metrics_of"]


@dataclass(frozen=True)
class Row:
    """One arm.

    Attributes:
        estimates: by metric, for the metrics that have values.
        differences: from its baseline, by metric; empty for a baseline.
        is_baseline: whether another row is compared with it.
    """

    arm: Arm
    estimates: Mapping[str, Estimate]
    differences: Mapping[str, Difference]
    is_baseline: bool


@dataclass(frozen=True)
class Table:
    """An ablation table, before it is formatted.

    Attributes:
        keys: the settings that differ.
        metrics: such as val_accuracy and test_accuracy.
        rows: in order.
        seeds: the largest number of seeds in a row.
        baseline: the baseline of the differences, in words; "" if there are none.
        minimize: whether lower metrics are better.
    """

    keys: Sequence[str]
    metrics: Sequence[str]
    rows: Sequence[Row]
    seeds: int
    baseline: str
    minimize: bool = False

    @cached_property
    def best(self) -> dict[str, set[int]]:
        """Return the best rows per metric, judged by their means as written.

        A single row is not the best of anything. A row that lacks a seed is left out, as its mean may be flattered.
        """
        return {metric: self._best(metric) if len(self.rows) > 1 else set() for metric in self.metrics}

    def _best(self, metric: str) -> set[int]:
        means = {
            index: found.mean
            for index, row in enumerate(self.rows)
            if (found := row.estimates.get(metric)) is not None and found.number == self.seeds
        }
        if not means:
            return set()
        best = metric_text(metric, (min if self.minimize else max)(means.values()))
        return {index for index, mean in means.items() if metric_text(metric, mean) == best}

    def notes(self) -> list[str]:
        """Explain ±, the brackets and the counts, in one sentence each."""
        notes = []
        if any(found.deviation is not None for row in self.rows for found in row.estimates.values()):
            notes.append("± is the standard deviation over the seeds (n - 1).")
        intervals = [value for row in self.rows for value in row.differences.values() if value.low is not None]
        if self.baseline:
            notes.append(f"Differences are from {self.baseline}.")
        if intervals:
            paired = [value.pairs is not None for value in intervals]
            kind = "paired by seed" if any(paired) else "Welch's, of independent seeds"
            if any(paired) and not all(paired):
                kind += ", Welch's where fewer than two seeds are shared"
            notes.append(
                f"In brackets: Student's {CONFIDENCE:.0%} confidence interval ({kind}), each for itself: one "
                "of twenty misses by chance."
            )
        if any(row.arm.statuses[Status.DIVERGED] for row in self.rows):
            notes.append("A run that diverged counts by its best epoch before, if it had one.")
        return notes


def metrics_of(arms: Sequence[Arm]) -> list[str]:
    """Return the objective's metric in validation and test, such as val_accuracy and test_accuracy."""
    quantity = arms[0].results[0].objective_name.partition("_")[2]
    names = [f"{split}_{quantity}" for split in ("val", "test")]
    return [name for name in names if any(arm.values(name) for arm in arms)] or names[:1]


def make_table(
    keys: Sequence[str],
    arms: Sequence[Arm],
    metrics: Sequence[str],
    baseline_of: Sequence[int | None],
    *,
    is_chosen: bool = False,
) -> Table:
    """Compute the table of these arms.

    Args:
        baseline_of: for each arm, the index of its baseline: None for none, its own index for a baseline.
        is_chosen: whether the only baseline was chosen for its results.
    """
    are_baselines = {index for index in baseline_of if index is not None}
    rows = []
    for index, (arm, baseline) in enumerate(zip(arms, baseline_of, strict=True)):
        values = {metric: arm.values(metric) for metric in metrics}
        estimates = {metric: estimate(of_metric.values()) for metric, of_metric in values.items()}
        differences = {}
        if baseline is not None and baseline != index:
            compared = arms[baseline]
            differences = {metric: difference(values[metric], compared.values(metric)) for metric in metrics}
        rows.append(
            Row(
                arm,
                {metric: found for metric, found in estimates.items() if found is not None},
                {metric: found for metric, found in differences.items() if found is not None},
                index in are_baselines,
            )
        )
    shown = ""
    if len(arms) > 1 and are_baselines:
        first = arms[min(are_baselines)]
        shown = first.label if len(are_baselines) == 1 else "the row marked baseline with the same other settings"
        if is_chosen:
            shown += ", the best, which chance may have favoured"
    seeds = max(len(arm.results) for arm in arms)
    return Table(list(keys), list(metrics), rows, seeds, shown, arms[0].results[0].minimize)


def baselines(keys: Sequence[str], arms: Sequence[Arm], wanted: str | None) -> list[int | None]:
    """Return the index of the arm that each arm is compared with: the first or, if `wanted` says so, another.

    `wanted` lists settings as in the table, such as "norm=none" or "norm=none,optimizer.lr=0.1". If several arms have
    them, each arm is compared with the one of these whose other settings all equal its own, if there is one.

    Raises:
        UserError: no arm has these settings.
    """
    if wanted is None:
        return [0] * len(arms)
    settings = _parse(wanted, keys, arms)
    having = [
        index
        for index, arm in enumerate(arms)
        if all(_is_same(arm.settings.get(key), text) for key, text in settings.items())
    ]
    if not having:
        known = "; ".join(arm.label for arm in arms[:5]) + ("; ..." if len(arms) > 5 else "")
        raise UserError(f"`--baseline` must be settings of one of the rows, but got {wanted!r}: there are {known}.")
    if len(having) == 1:
        return [having[0]] * len(arms)
    others = [key for key in keys if key not in settings]
    found: list[int | None] = []
    for arm in arms:
        alike = [index for index in having if _shared(arms[index], arm, others)]
        found.append(alike[0] if len(alike) == 1 else None)
    return found


def _shared(baseline: Arm, arm: Arm, others: Sequence[str]) -> bool:
    """Whether the arms agree in all settings that both have: without a norm there is no placement."""
    return all(
        baseline.settings[key] == arm.settings[key]
        for key in others
        if key in baseline.settings and key in arm.settings
    )


def _parse(wanted: str, keys: Sequence[str], arms: Sequence[Arm]) -> dict[str, str]:
    settings = {}
    for part in filter(None, (part.strip() for part in _COMMA.split(wanted))):
        name, sign, text = part.partition("=")
        named = [key for key in keys if key == name or key.endswith(f".{name}")]
        if not sign or len(named) != 1:
            known = f"those that differ are {', '.join(keys)}" if keys else "no setting differs"
            raise UserError(
                f"`--baseline` must be settings such as norm=none or norm=none,lr=0.1, but got {wanted!r}: {known}."
            )
        settings[named[0]] = text
    return settings


def _is_same(text: str | None, wanted: str) -> bool:
    if text is None:
        return False
    numbers: list[float] = []
    for value in (text, wanted):
        try:
            numbers.append(float(value))
        except ValueError:
            return text == wanted
    return numbers[0] == numbers[1]


_COMMA = re.compile(r",(?![^\[{]*[\]}])")  # but not within a list
