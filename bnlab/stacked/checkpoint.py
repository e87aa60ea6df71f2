"""Save the state of one network of a stack in the format of Lightning's trainer, so that either can continue."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bnlab.io.atomic_file import write_bytes

__all__ = ["Snapshot", "SnapshotAmidEpoch", "write_checkpoint"]

# The version of Lightning whose format this is; later versions migrate these checkpoints like their own.
_FORMAT = "2.5.0"


@dataclass(frozen=True)
class Snapshot:
    """The state of one network after an epoch, copied.

    Attributes:
        epoch: the epoch, counted from 1.
        step: the number of optimizer steps so far.
        steps_in_epoch: the number of steps of this epoch.
        network, optimizer: functions that return the `state_dict`s, which take longer to make than the copy and are
            rarely needed before the next snapshot.
        scheduler: the `state_dict` of the scheduler.
    """

    epoch: int
    step: int
    steps_in_epoch: int
    network: Callable[[], dict[str, Tensor]]
    optimizer: Callable[[], dict[str, Any]]
    scheduler: dict[str, Any] | None

    def plain(self) -> dict[str, Any]:
        """Convert to types that `torch.load` can read with `weights_only=True`."""
        return vars(self) | {"network": self.network(), "optimizer": self.optimizer()}

    @classmethod
    def of(cls, plain: Any) -> "Snapshot":
        """Invert `plain`, given any value.

        Raises:
            ValueError: it is no snapshot.
        """
        is_one = (
            isinstance(plain, dict)
            and plain.keys() == cls.__dataclass_fields__.keys()
            and all(type(plain[name]) is int and plain[name] > 0 for name in ("epoch", "step", "steps_in_epoch"))
            and isinstance(network := plain["network"], dict)
            and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in network.items())
            and isinstance(optimizer := plain["optimizer"], dict)
            and isinstance(plain["scheduler"], dict | None)
        )
        if not is_one:
            raise ValueError("it contains an invalid snapshot")
        return cls(**plain | {"network": lambda: dict(network), "optimizer": lambda: dict(optimizer)})


@dataclass(frozen=True)
class SnapshotAmidEpoch(Snapshot):
    """The state after `steps_in_epoch` steps of `epoch`, before its validation.

    Attributes:
        is_last: whether the epoch has no further step.
    """

    is_last: bool


def write_checkpoint(path: Path, snapshot: Snapshot, normalization: dict[str, Tensor]) -> None:
    buffer = io.BytesIO()
    torch.save(
        {
            "epoch": snapshot.epoch - 1,
            "global_step": snapshot.step,
            "pytorch-lightning_version": _FORMAT,
            "state_dict": {f"network.{name}": tensor for name, tensor in snapshot.network().items()},
            "loops": {"fit_loop": _fit_loop(snapshot)},
            "callbacks": {},
            "optimizer_states": [snapshot.optimizer()],
            "lr_schedulers": [] if snapshot.scheduler is None else [snapshot.scheduler],
            "DataModule": normalization,
        },
        buffer,
    )
    write_bytes(path, buffer.getbuffer())


def _fit_loop(snapshot: Snapshot) -> dict[str, Any]:
    """Return the counters of Lightning's loops, as they are in the last hooks of an epoch or of a step."""
    total, current, epochs = snapshot.step, snapshot.steps_in_epoch, snapshot.epoch
    no_state: dict[str, Any] = {}

    def counters(number: int, *names: str) -> dict[str, int]:
        return dict.fromkeys(names, number)

    def progress(total: int, current: int, *names: str) -> dict[str, dict[str, int]]:
        return {"total": counters(total, *names), "current": counters(current, *names)}

    batch, pair = ("ready", "completed", "started", "processed"), ("ready", "completed")
    has_schedule = snapshot.scheduler is not None
    is_amid = isinstance(snapshot, SnapshotAmidEpoch)
    num_ended = epochs - is_amid
    is_last = snapshot.is_last if isinstance(snapshot, SnapshotAmidEpoch) else True
    batches = progress(total, current, *batch)
    for counted in batches.values():
        counted["completed"] -= is_amid
    validated = progress(int(not is_amid), int(num_ended > 0), *batch)
    epoch_progress = counters(epochs, *batch) | {"processed": num_ended, "completed": epochs - 1}
    return {
        "state_dict": no_state,
        "epoch_progress": {"total": epoch_progress, "current": dict(epoch_progress)},
        "epoch_loop.state_dict": {"_batches_that_stepped": total - is_amid},
        "epoch_loop.batch_progress": {**batches, "is_last_batch": is_last},
        "epoch_loop.scheduler_progress": progress(
            (epochs - 1 + is_last) * has_schedule, int(is_last and has_schedule), *pair
        ),
        "epoch_loop.automatic_optimization.state_dict": no_state,
        "epoch_loop.automatic_optimization.optim_progress": {
            "optimizer": {
                "step": progress(total, current, *pair),
                "zero_grad": progress(total, current, "ready", "completed", "started"),
            }
        },
        "epoch_loop.manual_optimization.state_dict": no_state,
        "epoch_loop.manual_optimization.optim_step_progress": progress(0, 0, *pair),
        "epoch_loop.val_loop.state_dict": no_state,
        "epoch_loop.val_loop.batch_progress": {**validated, "is_last_batch": num_ended > 0},
    }
