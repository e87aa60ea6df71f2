"""The metrics of a training, in one table that defines how they are checked, ranked, written and drawn."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bnlab.task import task_of

__all__ = [
    "METRICS",
    "NAME",
    "Metric",
    "columns_of",
    "metric_of",
    "metrics_of",
    "minimizes",
    "objectives",
    "test_metric",
    "words",
    "worst_of",
]


@dataclass(frozen=True)
class Metric:
    """A metric, computed per epoch on the training and the validation set, and for the best weights on the test set.

    Attributes:
        name: such as accuracy, for which metrics.csv has train_accuracy and val_accuracy.
        higher_is_better: whether the higher of two values is better.
        task: the only task that has it; None for all.
        label: its name in texts and figures.
        worst: the value that a search uses for a training without a finite epoch; None for the infinitely bad one.
        is_share: whether it is shown in percent.
        is_logarithmic: whether it is drawn on a logarithmic axis if all values are positive.
        least_drawn: the lower limit of its axis; lower values are cut off.
    """

    name: str
    higher_is_better: bool
    task: str | None = None
    label: str = ""
    worst: float | None = None
    is_share: bool = False
    is_logarithmic: bool = False
    least_drawn: float = -math.inf


_TABLE = (
    # The share of samples whose largest output belongs to their class
    Metric("accuracy", True, "classification", worst=0.0, is_share=True),
    # R^2 = 1 - sum (y - prediction)^2 / sum (y - mean(y))^2; -1 is far worse than predicting the mean, which is 0
    Metric("r2", True, "regression", label="R²", least_drawn=-1.0),
    # The mean cross-entropy, or the mean squared error in the unit of y squared
    Metric("loss", False, is_logarithmic=True),
)
METRICS = {metric.name: metric for metric in _TABLE}
"""bnlab's own metrics; the score of a task comes before the loss."""

NAME = r"[A-Za-z][A-Za-z0-9_]*"
"""The pattern for the names of users' metrics, which become parts of column names."""


def metrics_of(config: Mapping[str, Any]) -> dict[str, Metric]:
    """Return the metrics of a config by name: the score of its task, the loss, and those under `metrics`."""
    task = task_of(config)
    found = {metric.name: metric for metric in _TABLE if metric.task in (None, task)}
    own = config.get("metrics")
    for name, settings in own.items() if isinstance(own, Mapping) else ():
        is_higher = settings.get("higher_is_better", True) if isinstance(settings, Mapping) else True
        found[str(name)] = Metric(str(name), bool(is_higher))
    return found


def columns_of(config: Mapping[str, Any]) -> list[str]:
    """Return the names of an epoch's metrics in metrics.csv."""
    names = sorted(metrics_of(config), key=lambda name: name != "loss")
    return [f"{split}_{name}" for split in ("train", "val") for name in names]


def objectives(config: Mapping[str, Any]) -> list[str]:
    """Return the metrics that can be the objective, which picks the best epoch and ranks runs."""
    return [f"val_{name}" for name in metrics_of(config)]


def minimizes(config: Mapping[str, Any]) -> bool:
    """Whether a lower objective of this config is better."""
    return not _find(str(config.get("objective")), metrics_of(config)).higher_is_better


def metric_of(column: str) -> Metric:
    """Return the metric of a column such as val_accuracy, or of accuracy itself; for a user's metric, only its name."""
    return _find(column, METRICS)


def _find(column: str, known: Mapping[str, Metric]) -> Metric:
    split, _, name = column.partition("_")
    name = name if split in ("train", "val", "test") and name else column
    return known.get(name) or Metric(name, True)


def words(column: str) -> str:
    """Return a column's name in words: `val accuracy`, `test R²`."""
    metric = metric_of(column)
    head = column.removesuffix(metric.name)
    return (head + (metric.label or metric.name)).replace("_", " ")


def worst_of(objective: str, *, minimize: bool) -> float:
    """Return the objective that stands for a training without a finite epoch."""
    worst = metric_of(objective).worst
    if worst is not None:
        return worst
    return math.inf if minimize else -math.inf


def test_metric(summary: Mapping[str, Any]) -> str | None:
    """Return the test metric that tables show: that of the objective or, if the objective is the loss, the score.

    Args:
        summary: the run's; without "objective_name", the first metric in the table that it has is returned.
    """
    objective = str(summary.get("objective_name") or "")
    of_objective = "test_" + objective.partition("_")[2]
    names = [*([] if of_objective == "test_loss" else [of_objective]), *(f"test_{name}" for name in METRICS)]
    return next((name for name in names if summary.get(name) is not None), None)
