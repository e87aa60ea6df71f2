"""Show the progress of a run that Lightning trains."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console

from bnlab.runs.progress import RunProgress

__all__ = ["ProgressBar"]


class ProgressBar(L.Callback):
    """Show `RunProgress` on `console`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: RunProgress | None = None

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._progress = RunProgress(self._console, max_epochs=trainer.max_epochs, max_steps=trainer.max_steps)
        steps = trainer.num_training_batches / trainer.accumulate_grad_batches
        self._progress.begin(steps, trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        if self._progress is None or not self._progress.is_due:
            return
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        shown = float(loss.detach()) if isinstance(loss, torch.Tensor) else None
        self._progress.update(trainer.current_epoch + 1, trainer.global_step, shown)

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self._progress is not None and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            metrics = getattr(module, "epoch_metrics", {})
            self._progress.end_epoch({"epoch": trainer.current_epoch + 1, "step": trainer.global_step, **metrics})

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self._progress is not None:
            self._progress.end()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        if self._progress is not None:
            self._progress.end()
