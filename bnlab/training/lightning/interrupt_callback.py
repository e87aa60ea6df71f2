"""Let Ctrl-C, SIGTERM or SIGHUP end a training by Lightning between two steps."""

import signal
import threading
from typing import Any, Self

import lightning as L

from bnlab.training.interrupt import InterruptRequest

__all__ = ["InterruptBetweenSteps"]


class InterruptBetweenSteps(InterruptRequest, L.Callback):
    """Within `with`, the first signal raises `Interrupted` after the current step; a second one ends it at once."""

    def __enter__(self) -> Self:
        super().__enter__()
        self._terminate = signal.getsignal(signal.SIGTERM)
        return self

    def _look(self, *arguments: Any, **named: Any) -> None:
        self.raise_if_requested()

    on_train_batch_end = _look
    on_validation_batch_end = _look
    on_test_batch_end = _look

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace the SIGTERM handler that Lightning puts over ours; a worker leaves SIGTERM to its parent."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._terminate)

    on_test_start = on_fit_start
