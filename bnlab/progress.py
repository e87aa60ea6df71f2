"""The progress bar of a training: one line for the whole of it, with loss, validation accuracy and time left."""

import time
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["ProgressBar"]

REFRESH_S = 0.1
LINE_EVERY_S = 10.0


class ProgressBar(L.Callback):
    """On a terminal, a bar over all steps; elsewhere a line now and then, so that a log shows signs of life.

    The loss is the newest batch's, read from the device at most ten times a second.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[metrics]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            refresh_per_second=1 / REFRESH_S,
            disable=not console.is_terminal,
            expand=True,
        )
        self._next_refresh = 0.0
        self._next_line = time.monotonic() + LINE_EVERY_S
        self._val_accuracy = ""

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        steps = trainer.estimated_stepping_batches
        self._task = self._progress.add_task(
            "training", total=None if steps == float("inf") else steps, completed=trainer.global_step, metrics=""
        )
        self._progress.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        now = time.monotonic()
        if now < self._next_refresh or self._progress.disable:
            return
        self._next_refresh = now + REFRESH_S
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        shown = f"loss {float(loss.detach()):.4f}" if isinstance(loss, torch.Tensor) else ""
        self._update(trainer, shown + self._val_accuracy)

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        accuracy = getattr(module, "epoch_metrics", {}).get("val_accuracy")
        if accuracy is not None:
            self._val_accuracy = f"  val accuracy {accuracy:.2%}"
        if not self._console.is_terminal and time.monotonic() > self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY_S
            self._console.print(f"epoch {_epoch(trainer)}{self._val_accuracy}", highlight=False)

    def _update(self, trainer: L.Trainer, metrics: str) -> None:
        self._progress.update(
            self._task, description=f"epoch {_epoch(trainer)}", completed=trainer.global_step, metrics=metrics
        )

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._update(trainer, self._val_accuracy.strip())
        self._progress.stop()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        self._progress.stop()


def _epoch(trainer: L.Trainer) -> str:
    limit = trainer.max_epochs
    return f"{trainer.current_epoch + 1}" + (f"/{limit}" if limit is not None and limit > 0 else "")
