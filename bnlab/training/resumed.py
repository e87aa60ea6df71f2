"""What a run's folder keeps of its training, from which it continues bit for bit as if it had never stopped."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from bnlab.errors import UserError
from bnlab.internals.torch_internals import mark_as_stepped
from bnlab.io.atomic_file import write_bytes
from bnlab.runs.folder import RunFolder, reading
from bnlab.runs.reading import read_rows
from bnlab.training.optimizer import step_schedule

__all__ = ["Resumed", "read_resumed"]


@dataclass(frozen=True)
class Resumed:
    """The state of a training after a whole epoch.

    Attributes:
        source: the folder that keeps it.
        rows: of metrics.csv, up to that epoch.
        path, checkpoint: the file of the state, and its content.
    """

    source: RunFolder
    rows: list[dict[str, float]]
    path: Path
    checkpoint: dict[str, Any]

    @property
    def epoch(self) -> int:
        """The epoch, counted from 1."""
        return len(self.rows)

    @property
    def seconds(self) -> float:
        """How long it took to get there."""
        return self.rows[-1]["seconds"]

    def is_of(self, folder: RunFolder) -> bool:
        """Whether the training continues in the folder that keeps the state."""
        return folder.path.resolve() == self.source.path.resolve()

    def with_settings_of(self, optimizer: Optimizer, scheduler: LRScheduler | None) -> dict[str, Any]:
        """Return what of the checkpoint follows from the config, for one that may have changed.

        The moments are the stored ones. The hyperparameters and the schedule are those of `optimizer` and `scheduler`,
        both new, after as many epochs.

        Raises:
            UserError: as `check_optimizer`.
        """
        mark_as_stepped(optimizer)  # or torch would warn of a schedule that runs ahead
        for row in self.rows:
            step_schedule(scheduler, row)
        self.check_optimizer(optimizer)
        (stored,) = self.checkpoint["optimizer_states"]
        schedules = [] if scheduler is None else [scheduler.state_dict()]
        groups = optimizer.state_dict()["param_groups"]
        return {"optimizer_states": [{**stored, "param_groups": groups}], "lr_schedulers": schedules}

    def check_network(self, network: nn.Module) -> None:
        """Check that the weights are those of this network.

        Raises:
            UserError: names or shapes differ.
        """
        stored = {name.removeprefix("network."): value.shape for name, value in self.checkpoint["state_dict"].items()}
        if stored != {name: value.shape for name, value in network.state_dict().items()}:
            raise UserError(
                f"The run in {str(self.source.path)!r} cannot be resumed with another network: keep `model` and `norm` "
                "as they were."
            )

    def check_optimizer(self, optimizer: Optimizer) -> None:
        """Check that the stored state is one of this optimizer.

        Raises:
            UserError: it is of another class, or has other parameters.
        """
        (stored,), groups = self.checkpoint["optimizer_states"], optimizer.state_dict()["param_groups"]
        before, now = ([len(group["params"]) for group in each] for each in (stored["param_groups"], groups))
        other = _own_settings(stored["param_groups"]) ^ _own_settings(groups)
        if before != now or other:
            raise UserError(
                f"The optimizer of the run in {str(self.source.path)!r} cannot be exchanged for "
                f"{type(optimizer).__name__}, whose state is another: keep its class, and change its settings."
            )

    def hand_over_best(self, best: dict[str, float] | None, folder: RunFolder) -> None:
        """Let `folder`, in which the training continues, have the weights of its best epoch so far, with row `best`.

        Raises:
            UserError: no file of the source has them.
        """
        if best is not None:
            path, _ = self._best(best)
            if path != folder.best_checkpoint:
                write_bytes(folder.best_checkpoint, path.read_bytes())

    def best_checkpoint(self, best: dict[str, float]) -> dict[str, Any]:
        """Return the checkpoint of the best epoch, with row `best`.

        Raises:
            UserError: no file of the source has it.
        """
        return self._best(best)[1]

    def _best(self, best: dict[str, float]) -> tuple[Path, dict[str, Any]]:
        for path in (self.source.best_checkpoint, self.path):
            if path.is_file():
                with reading(self.source, path):
                    checkpoint = _load(path)
                if checkpoint["epoch"] + 1 == best["epoch"]:
                    return path, checkpoint
        raise UserError(
            f"The run in {str(self.source.path)!r} cannot be resumed: the weights of its best epoch, "
            f"{best['epoch']:.0f}, are missing."
        )


def _own_settings(groups: Sequence[dict[str, Any]]) -> set[str]:
    """Return the names of an optimizer's settings, without what schedules add."""
    return {name for group in groups for name in group} - {"initial_lr", "max_lr", "min_lr", "max_momentum"}


def read_resumed(source: RunFolder) -> Resumed | None:
    """Read the newest state of a run after a whole epoch; None if no epoch had ended.

    Raises:
        UserError: a file is damaged, or no checkpoint fits the rows of metrics.csv.
    """
    with reading(source, source.metrics):
        rows = read_rows(source.metrics) if source.metrics.is_file() else []
    states = []
    for path in (source.last_checkpoint, source.epoch_checkpoint):
        if path.is_file():
            with reading(source, path):
                checkpoint = _load(path)
                epoch, step = checkpoint["epoch"] + 1, checkpoint["global_step"]
                # One from the middle of an epoch has the number of an epoch that has no row yet.
                if epoch <= len(rows) and step == rows[epoch - 1]["step"]:
                    states.append(Resumed(source, rows[:epoch], path, checkpoint))
    if not states:
        # The first row is written before the first checkpoint, and a kill may come in between.
        if len(rows) > 1 or (rows and source.last_checkpoint.exists()):
            raise UserError(
                f"The run in {str(source.path)!r} cannot be resumed: it has no checkpoint that fits its metrics.csv."
            )
        return None
    return max(states, key=lambda state: state.epoch)


def _load(path: Path) -> dict[str, Any]:
    try:
        checkpoint: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        is_one = all(type(checkpoint[name]) is int for name in ("epoch", "global_step"))
        is_one = is_one and len(checkpoint["optimizer_states"]) == 1 and isinstance(checkpoint["state_dict"], dict)
    except Exception as error:  # its text would advise the user to load it less safely
        raise ValueError(f"it is damaged, or no checkpoint ({type(error).__name__})") from None
    if not is_one:
        raise ValueError("it is not the checkpoint of a training")
    return checkpoint
