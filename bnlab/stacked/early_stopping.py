"""Replaces Lightning's EarlyStopping in stacks, whose workers do not import Lightning; delete when that is cheap.

The rule is the same. Figures: bnlab/bench/records/library_functions.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from bnlab.rules import Rule, boolean, integer, number, one_of, optional

if TYPE_CHECKING:
    import numpy as np

__all__ = ["EarlyStopping", "early_stopping_lacks"]

_TARGETS = (
    "lightning.pytorch.callbacks.EarlyStopping",
    "lightning.pytorch.callbacks.early_stopping.EarlyStopping",
)
_THRESHOLD = optional(number(), "none")
# The supported values of each argument. A verbose callback of Lightning logs more, and `check_on_train_epoch_end=False`
# changes when it checks.
_SERVED: dict[str, Rule] = {
    "_target_": one_of(*_TARGETS),
    "min_delta": number(),
    "patience": integer(),
    "mode": one_of("min", "max"),
    "check_finite": boolean(),
    "stopping_threshold": _THRESHOLD,
    "divergence_threshold": _THRESHOLD,
    "strict": boolean(),  # the metric is always there
    "verbose": one_of(False),
    "check_on_train_epoch_end": one_of(None, True),
    "log_rank_zero_only": boolean(),
}


def early_stopping_lacks(callback: Mapping[str, Any], columns: Sequence[str]) -> str | None:
    """Return the first setting of a callback that `EarlyStopping` does not support; None if it supports all.

    Args:
        columns: the metrics of an epoch (`bnlab.metrics.columns_of`).
    """
    served = _SERVED | {"monitor": one_of(*columns)}
    for name in dict.fromkeys(["_target_", "monitor", *callback]):
        if name not in served or not served[name].holds(callback.get(name)):
            return name
    return None


@dataclass
class EarlyStopping:
    """Stop when `monitor` has not improved by more than `min_delta` for `patience` epochs, or passes a threshold.

    The arguments are those of `lightning.pytorch.callbacks.EarlyStopping`, which compares in fp32.
    """

    monitor: str
    min_delta: float = 0.0
    patience: int = 3
    mode: str = "min"
    check_finite: bool = True
    stopping_threshold: float | None = None
    divergence_threshold: float | None = None
    _wait: int = field(default=0, init=False)
    _best: "np.float32 | None" = field(default=None, init=False)

    @classmethod
    def of(cls, callback: Mapping[str, Any]) -> "EarlyStopping":
        own = {argument.name for argument in fields(cls) if argument.init}
        return cls(**{key: value for key, value in callback.items() if key in own})

    def should_stop(self, row: Mapping[str, float]) -> bool:
        """Whether the epoch of this row is the last."""
        import numpy as np  # imported late, because its import would delay the start of a command

        sign = -1 if self.mode == "min" else 1
        current = np.float32(sign * row[self.monitor])  # larger is better
        if self.check_finite and not np.isfinite(current):
            return True
        if self.stopping_threshold is not None and current > np.float32(sign * self.stopping_threshold):
            return True
        if self.divergence_threshold is not None and current < np.float32(sign * self.divergence_threshold):
            return True
        if self._best is None or current - np.float32(self.min_delta) > self._best:
            self._best, self._wait = current, 0
            return False
        self._wait += 1
        return self._wait >= self.patience
