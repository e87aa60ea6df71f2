"""Folders of runs whose results are made up, as a training would have left them."""

import functools
import math
from collections.abc import Sequence
from pathlib import Path

from bnlab.config import compose
from bnlab.history import History
from bnlab.runs import RunFolder
from bnlab.summary import beginning, best_of

composed = functools.cache(compose)


def record(
    folder: Path,
    *overrides: str,
    val_accuracy: Sequence[float] = (0.5, 0.9, 0.8),
    val_loss: Sequence[float] | None = None,
    test_accuracy: float | None = 0.85,
    status: str = "completed",
    error: str = "",
) -> Path:
    """A run with these overrides and these curves; those of the training are 0.05 better."""
    config = composed(overrides)
    run = RunFolder(folder)
    run.create(config, overrides)
    history = History(config.objective)
    losses = [1 - accuracy for accuracy in val_accuracy] if val_loss is None else val_loss
    for epoch, (accuracy, loss) in enumerate(zip(val_accuracy, losses, strict=True), 1):
        metrics = {"train_accuracy": accuracy + 0.05, "val_accuracy": accuracy, "train_loss": loss, "val_loss": loss}
        history.add(epoch, 10 * epoch, 0.1, metrics)
    if history.rows:
        run.write_metrics(history.rows)
    summary = beginning(config, overrides) | {"status": status} | best_of(history.best, config.objective)
    summary |= {"test_accuracy": test_accuracy, "test_loss": 0.5, "error": error}
    if status != "unfinished":
        run.write_summary({key: value for key, value in summary.items() if value != ""})
    return folder


def is_close(found: float, expected: float) -> bool:
    return math.isclose(found, expected, rel_tol=1e-12, abs_tol=1e-15)
