"""End a trial that Lightning trains when it falls behind the others."""

import lightning as L

from bnlab.search.study.pruning import Pruning

__all__ = ["PruningCallback"]


class PruningCallback(L.Callback):
    """End the training when `pruning` says so.

    Attributes:
        stopped: whether it has ended the training.
    """

    def __init__(self, pruning: Pruning) -> None:
        self._pruning = pruning
        self.stopped = False

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        metrics = getattr(module, "epoch_metrics", {})
        if self._pruning.ends(trainer.current_epoch + 1, metrics, trainer.max_epochs):
            self.stopped = True
            trainer.should_stop = True
