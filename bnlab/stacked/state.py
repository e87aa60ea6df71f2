"""The state from which a network of a stack continues in another process as if nothing had happened.

Everything else follows from the config: the order of the data from the seed and the epoch; the schedule, early stopping
and the best epoch from the rows of metrics.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bnlab.stacked.checkpoint import Snapshot
from bnlab.status import Status

__all__ = ["State"]

_COLUMNS = {"epoch", "step", "lr", "train_loss", "val_loss", "seconds"}  # every training has these


@dataclass(frozen=True)
class State:
    """The state after an epoch, which is the last one if `status` says how the training ended.

    Attributes:
        rows: the rows of metrics.csv, one per epoch.
        lines: the lines of train.log.
        status: the status in summary.json; None during training.
        samples: the number of samples it was trained on.
        seconds: the time it has taken.
        network: its `state_dict`; empty if the training has ended.
        moments: the moments of its optimizer, by name, (P,).
        best, last: as in `bnlab.stacked.trial.StackedTrial`; `last` only if the training has ended.
        rungs: the values that its pruner stores.
    """

    rows: list[dict[str, float]]
    lines: list[str]
    status: Status | None
    samples: int
    seconds: float
    network: dict[str, Tensor]
    moments: dict[str, Tensor]
    best: Snapshot | None
    last: Snapshot | None
    rungs: dict[str, float]

    @property
    def epoch(self) -> int:
        return len(self.rows)

    @property
    def steps(self) -> int:
        return int(self.rows[-1]["step"])

    def plain(self) -> dict[str, Any]:
        """Convert to types that `torch.load` can read with `weights_only=True`."""
        best, last = (None if snapshot is None else snapshot.plain() for snapshot in (self.best, self.last))
        status = None if self.status is None else str(self.status)
        return vars(self) | {"status": status, "best": best, "last": last}

    @classmethod
    def of(cls, plain: Any) -> "State":
        """Invert `plain`, given any value.

        Raises:
            ValueError: it is no state.
        """
        _require(isinstance(plain, dict) and plain.keys() == cls.__dataclass_fields__.keys(), "it is not a state")
        _require(isinstance(plain["rows"], list) and len(plain["rows"]) > 0, "it has no rows")
        for number, row in enumerate(plain["rows"], start=1):
            is_row = isinstance(row, dict) and row.keys() >= _COLUMNS and all(map(_is_number, row.values()))
            _require(is_row and row["epoch"] == number and type(row["step"]) is int, f"its row {number} is invalid")
        lines = plain["lines"]
        _require(isinstance(lines, list) and all(isinstance(line, str) for line in lines), "its lines are not text")
        status = None if plain["status"] is None else _status(plain["status"])
        _require(type(plain["samples"]) is int and plain["samples"] >= 0, "its number of samples is invalid")
        _require(_is_number(plain["seconds"]) and 0 <= plain["seconds"] < math.inf, "its time in seconds is invalid")
        _require(
            all(_are_tensors(plain[name]) for name in ("network", "moments")),
            "its network or its moments are not tensors",
        )
        rungs = plain["rungs"]
        _require(isinstance(rungs, dict) and all(map(_is_number, rungs.values())), "its rungs are not numbers")
        best, last = (None if plain[name] is None else Snapshot.of(plain[name]) for name in ("best", "last"))
        state = cls(**plain | {"status": status, "best": best, "last": last})
        _require((state.status is None) == (last is None), "its status contradicts its last epoch")
        _require(last is None or last.epoch == state.epoch, "its last epoch is not that of its rows")
        return state


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _status(word: Any) -> Status:
    _require(word in [status for status in Status if status.has_results], "its status is invalid")
    return Status(word)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _are_tensors(values: Any) -> bool:
    return isinstance(values, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in values.items()
    )
