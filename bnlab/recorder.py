"""Keeps a run's folder up to date while it trains: a row of metrics and the checkpoints, epoch by epoch."""

import logging
import math
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from bnlab.classifier import Classifier
from bnlab.runs import RunFolder

__all__ = ["Recorder"]

log = logging.getLogger(__name__)

BETTER = {"val_accuracy": lambda new, best: new > best, "val_loss": lambda new, best: new < best}


class Recorder(Checkpoint):
    """After each epoch: its row to metrics.csv, last.ckpt, and best.ckpt if `objective` improved (a tie does not).

    An epoch whose loss is not finite ends the training; it is recorded, but never the best. A `Checkpoint`, because
    Lightning runs those after all other callbacks and after the module has its epoch's metrics.

    Attributes:
        rows: what metrics.csv holds.
        best: the row of the best epoch, None before there is one.
        diverged_epoch: the epoch whose loss was not finite, else None.
    """

    def __init__(self, folder: RunFolder, objective: str) -> None:
        self._folder = folder
        self._objective = objective
        self._lr = math.nan
        self._start = time.monotonic()
        self.rows: list[dict[str, float]] = []
        self.best: dict[str, float] | None = None
        self.diverged_epoch: int | None = None

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]  # by the end of the epoch the schedule has moved it

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        if trainer.global_step == trainer.max_steps:
            trainer.should_stop = True  # Lightning validates after a stop, but not where max_steps cuts an epoch short

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, Classifier)
        epoch = trainer.current_epoch + 1
        row = {
            "epoch": epoch,
            "step": trainer.global_step,
            "lr": self._lr,
            **dict(sorted(module.epoch_metrics.items())),
            "seconds": round(time.monotonic() - self._start, 3),
        }
        self.rows.append(row)
        self._folder.write_metrics(self.rows)
        log.info(
            "epoch %d: %s", epoch, ", ".join(f"{name} {value:.5g}" for name, value in module.epoch_metrics.items())
        )
        if not all(math.isfinite(row[name]) for name in ("train_loss", "val_loss")):
            self.diverged_epoch = epoch
            log.info("the loss of epoch %d is not finite: the training diverged and ends here", epoch)
            trainer.should_stop = True
        elif self.best is None or BETTER[self._objective](row[self._objective], self.best[self._objective]):
            self.best = row
            trainer.save_checkpoint(self._folder.best_checkpoint)
        trainer.save_checkpoint(self._folder.last_checkpoint)

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        if trainer.training:
            trainer.save_checkpoint(self._folder.last_checkpoint)

    def columns(self) -> dict[str, list[float]]:
        """The rows turned: a list of values for each quantity."""
        return {name: [row[name] for row in self.rows] for name in self.rows[0]}
