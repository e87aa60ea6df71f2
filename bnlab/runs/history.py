"""The history of a training: one row of metrics per epoch, the best of them, and whether the training diverged."""

import math
import time
from collections.abc import Mapping, Sequence

__all__ = ["History"]


class History:
    """The rows of metrics.csv and the rules that read them, the same for every way of training.

    An epoch is the best if its objective improves on all earlier ones; a tie or NaN does not. An epoch whose loss is
    not finite is a divergence: it is kept, but never the best.

    Args:
        objective: the column that determines the best epoch.
        minimize: whether a lower objective is better.
    Attributes:
        rows: the rows of metrics.csv.
        best: the row of the best epoch, None before there is one.
        diverged_epoch: the epoch whose loss was not finite, else None.
    """

    def __init__(self, objective: str, *, minimize: bool) -> None:
        self._objective = objective
        self._sign = -1 if minimize else 1
        self._start = time.monotonic()
        self.rows: list[dict[str, float]] = []
        self.best: dict[str, float] | None = None
        self.diverged_epoch: int | None = None

    def add(self, epoch: int, step: int, lr: float, metrics: Mapping[str, float]) -> bool:
        """Add the row of `epoch`, counted from 1; return whether it is the best so far."""
        row = {
            "epoch": epoch,
            "step": step,
            "lr": lr,
            **dict(sorted(metrics.items())),
            "seconds": round(time.monotonic() - self._start, 3),
        }
        return self._record(row)

    def go_on(self, rows: Sequence[dict[str, float]], seconds: float) -> None:
        """Continue from the rows that another process recorded, and the seconds that it took."""
        self._start = time.monotonic() - seconds
        for row in rows:
            self._record(dict(row))

    def _record(self, row: dict[str, float]) -> bool:
        self.rows.append(row)
        if not all(math.isfinite(row[name]) for name in ("train_loss", "val_loss")):
            self.diverged_epoch = int(row["epoch"])
            return False
        value = self._sign * row[self._objective]  # higher is better
        if math.isnan(value) or (self.best is not None and value <= self._sign * self.best[self._objective]):
            return False
        self.best = row
        return True

    @property
    def best_epoch(self) -> float | None:
        return None if self.best is None else self.best["epoch"]

    def columns(self) -> dict[str, list[float]]:
        """Return the rows as columns: a list of values per quantity."""
        return {name: [row[name] for row in self.rows] for name in self.rows[0]}
