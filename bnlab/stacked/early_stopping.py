"""Lightning's EarlyStopping for a network in a stack: the same rule, without Lightning."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["EarlyStopping", "is_early_stopping"]

_TARGETS = (
    "lightning.pytorch.callbacks.EarlyStopping",
    "lightning.pytorch.callbacks.early_stopping.EarlyStopping",
)
_SETTINGS = {
    "_target_",
    "monitor",
    "min_delta",
    "patience",
    "mode",
    "verbose",
    "check_finite",
    "stopping_threshold",
    "divergence_threshold",
}
_MONITORS = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")


def is_early_stopping(callback: Mapping[str, Any]) -> bool:
    """Whether a callback of the config is one that `EarlyStopping` does."""
    return (
        callback.get("_target_") in _TARGETS
        and set(callback) <= _SETTINGS
        and callback.get("monitor") in _MONITORS
        and callback.get("mode", "min") in ("min", "max")
    )


@dataclass
class EarlyStopping:
    """Stop when `monitor` has not improved by more than `min_delta` for `patience` epochs, or passes a threshold.

    The arguments are those of `lightning.pytorch.callbacks.EarlyStopping`.
    """

    monitor: str
    min_delta: float = 0.0
    patience: int = 3
    mode: str = "min"
    check_finite: bool = True
    stopping_threshold: float | None = None
    divergence_threshold: float | None = None
    verbose: bool = False
    _wait: int = field(default=0, init=False)
    _best: float | None = field(default=None, init=False)

    @classmethod
    def of(cls, callback: Mapping[str, Any]) -> "EarlyStopping":
        return cls(**{key: value for key, value in callback.items() if key != "_target_"})

    def should_stop(self, row: Mapping[str, float]) -> bool:
        """Whether the epoch of this row is the last."""
        sign = -1 if self.mode == "min" else 1
        current = sign * float(np.float32(row[self.monitor]))  # Lightning compares in fp32; here larger is better
        if self.check_finite and not np.isfinite(current):
            return True
        if self.stopping_threshold is not None and current > sign * self.stopping_threshold:
            return True
        if self.divergence_threshold is not None and current < sign * self.divergence_threshold:
            return True
        if self._best is None or current - abs(self.min_delta) > self._best:
            self._best, self._wait = current, 0
            return False
        self._wait += 1
        return self._wait >= self.patience
