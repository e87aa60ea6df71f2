"""The state from which a network of a stack continues in another process as if nothing had happened.

The rest is given by the config: the order of the data follows from the seed and the epoch, the schedule, early stopping
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

_COLUMNS = {"epoch", "step", "lr", "train_loss", "val_loss", "seconds"}  # which every training has


@dataclass(frozen=True)
class State:
    """The state after an epoch, which is the last one if `status` says how the training ended.

    Attributes:
        rows: of metrics.csv, one an epoch.
        lines: of train.log.
        status: of summary.json; None while it trains.
        samples: that it was trained on.
        seconds: that it has taken.
        network: its `state_dict`; empty where it has ended.
        moments: of its optimizer, by name, (P,).
        best, last: as `bnlab.stacked.trial.StackedTrial` has them; the last only where it has ended.
        rungs: what its pruner keeps of it.
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
        _require(isinstance(plain, dict) and plain.keys() == cls.__dataclass_fields__.keys(), "it is none")
        _require(isinstance(plain["rows"], list) and len(plain["rows"]) > 0, "it has no rows")
        for number, row in enumerate(plain["rows"], start=1):
            is_row = isinstance(row, dict) and row.keys() >= _COLUMNS and all(map(_is_number, row.values()))
            _require(is_row and row["epoch"] == number and type(row["step"]) is int, f"its row {number} is none")
        lines = plain["lines"]
        _require(isinstance(lines, list) and all(isinstance(line, str) for line in lines), "its lines are no texts")
        status = None if plain["status"] is None else _status(plain["status"])
        _require(type(plain["samples"]) is int and plain["samples"] >= 0, "its samples are no number")
        _require(_is_number(plain["seconds"]) and 0 <= plain["seconds"] < math.inf, "its seconds are no number")
        _require(all(_are_tensors(plain[name]) for name in ("network", "moments")), "its numbers are no tensors")
        rungs = plain["rungs"]
        _require(isinstance(rungs, dict) and all(map(_is_number, rungs.values())), "its rungs are no numbers")
        best, last = (None if plain[name] is None else Snapshot.of(plain[name]) for name in ("best", "last"))
        state = cls(**plain | {"status": status, "best": best, "last": last})
        _require((state.status is None) == (last is None), "its status and its last epoch do not go together")
        _require(last is None or last.epoch == state.epoch, "its last epoch is another")
        return state


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _status(word: Any) -> Status:
    _require(word in [status for status in Status if status.has_results], "its status is none")
    return Status(word)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _are_tensors(values: Any) -> bool:
    return isinstance(values, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in values.items()
    )
