"""Keep a run's folder up to date while it trains: per epoch, a row of metrics and the checkpoints."""

import io
import logging
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from lightning.pytorch.plugins.io import TorchCheckpointIO

from bnlab.io.atomic_file import write_bytes
from bnlab.runs.folder import RunFolder
from bnlab.runs.history import History
from bnlab.training.lightning.learner import Learner
from bnlab.training.random_state import is_same, random_state, set_random_state
from bnlab.training.resumed import Resumed

__all__ = ["AtomicCheckpoints", "Recorder"]

log = logging.getLogger(__name__)

_RANDOM_STATE = "random_state"  # in a checkpoint


class AtomicCheckpoints(TorchCheckpointIO):
    """This replaces Lightning's writer, which copies from a temporary folder; delete it when that renames a file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(Path(path), buffer.getbuffer())


class Recorder(History, Checkpoint):
    """After each epoch, write its row of metrics.csv, last.ckpt, and best.ckpt if `objective` improved beyond a tie.

    An epoch whose loss is not finite ends the training; it is recorded, but never the best. This is a `Checkpoint`,
    because Lightning runs those after all other callbacks, when the module has its epoch's metrics.
    """

    def __init__(self, folder: RunFolder, objective: str, *, minimize: bool, resumed: Resumed | None = None) -> None:
        super().__init__(objective, minimize=minimize)
        self._folder = folder
        self._lr = math.nan
        self._first_random_state = random_state()  # for a checkpoint of a training that fails before it starts
        self._is_continued_in_place = resumed is not None and resumed.is_of(folder)
        self._random_state: Any = None
        if resumed is not None:
            self.go_on(resumed.rows, resumed.seconds)
            self._random_state = resumed.checkpoint.get(_RANDOM_STATE)

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._first_random_state = random_state()

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self._is_continued_in_place and any(
            isinstance(callback, EarlyStopping) and callback.stopped_epoch == trainer.current_epoch - 1 > 0
            for callback in trainer.callbacks  # type: ignore[attr-defined]
        ):
            _stop(trainer)  # the run was killed after its end

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self._random_state is not None:  # here, because building the network has drawn numbers
            set_random_state(self._random_state)
            self._random_state = None
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]  # the schedule changes it before the end of the epoch

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        if trainer.global_step == trainer.max_steps:
            _stop(trainer)  # Lightning validates after a stop, but not where max_steps cuts an epoch short

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, Learner)
        epoch = trainer.current_epoch + 1
        improved = self.add(epoch, trainer.global_step, self._lr, module.epoch_metrics)
        self._folder.write_metrics(self.rows)
        log.info(
            "epoch %d: %s", epoch, ", ".join(f"{name} {value:.5g}" for name, value in module.epoch_metrics.items())
        )
        if self.diverged_epoch is not None:
            log.info("the loss of epoch %d is not finite: the training diverged and ends here", epoch)
            _stop(trainer)
        # In this order: a run that is killed in between has its best weights in last.ckpt.
        self._save(trainer, self._folder.last_checkpoint)
        if improved and self.diverged_epoch is None:
            self._save(trainer, self._folder.best_checkpoint)
        self._folder.forget_epoch()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        if trainer.training:
            try:
                self._folder.require_in_place()
                self._folder.keep_epoch()
                self._save(trainer, self._folder.last_checkpoint)
            except OSError as error:
                with suppress(OSError):
                    self._folder.restore_epoch()
                if not isinstance(exception, OSError):  # otherwise the disk was full before
                    raise
                log.info("the state in which the training ended is not saved: %s", error)

    def on_save_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        now = random_state()
        if not is_same(now, self._first_random_state):  # otherwise, nothing draws
            checkpoint[_RANDOM_STATE] = now

    def _save(self, trainer: L.Trainer, path: Path) -> None:
        self._folder.require_in_place()
        trainer.save_checkpoint(path)


def _stop(trainer: L.Trainer) -> None:
    """End the training regardless of `min_epochs` and `min_steps`."""
    trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = None
    trainer.should_stop = True
