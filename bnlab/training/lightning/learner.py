"""The LightningModule: loss, metrics and optimizer around any network, and nothing else."""

from collections.abc import Callable, Iterable
from typing import Any

import lightning as L
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from bnlab.training.metrics import EpochMetrics
from bnlab.training.own_metrics import OwnMetrics

__all__ = ["Learner"]


class Learner(L.LightningModule):
    """Train `network` to minimize a loss; batch norm's γ and β are parameters like any other.

    Loss and score are logged once per epoch: for train as means over the epoch while the weights change, and for val
    and test. `epoch_metrics` holds the newest of each at full precision.

    Args:
        network: maps samples (N, ...) to (N, outputs).
        make_optimizer: maps parameters to an optimizer; None if the network is only tested.
        make_scheduler: maps an optimizer to a schedule that steps once per epoch, or to None.
        make_own_metrics: makes the user's own metrics for a split, or None.
    """

    def __init__(
        self,
        network: nn.Module,
        make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
        make_scheduler: Callable[[Optimizer], LRScheduler | None] = lambda optimizer: None,
        make_own_metrics: Callable[[], OwnMetrics | None] = lambda: None,
    ) -> None:
        super().__init__()
        self.network = network
        self._make_optimizer = make_optimizer
        self._make_scheduler = make_scheduler
        self.epoch_metrics: dict[str, float] = {}
        self.num_samples_trained = 0
        self.replaced_in_checkpoint: dict[str, Any] = {}  # what of a checkpoint gives way when it is loaded
        self._collected = {stage: self.make_metrics() for stage in ("train", "val", "test")}
        self._own = {stage: make_own_metrics() for stage in self._collected}

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss of a batch from outputs (N, outputs) and labels (N,)."""
        raise NotImplementedError

    def make_metrics(self) -> EpochMetrics:
        raise NotImplementedError

    def __setattr__(self, name: str, value: Any) -> None:
        # This bypasses nn.Module's check for parameters, for a name that Lightning sets dozens of times per step.
        # Delete it when Lightning no longer does (bnlab/bench/records/library_functions.md).
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def _step(self, batch: tuple[Tensor, Tensor], stage: str) -> Tensor:
        x, y = batch
        outputs = self.network(x)
        loss = self.loss(outputs, y)
        self._collected[stage].update(outputs, y, loss)
        own = self._own[stage]
        if own is not None:
            own.update(outputs, y)
        return loss

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        self.num_samples_trained += len(batch[1])
        return self._step(batch, "train")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        self._step(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        self._step(batch, "test")

    def _log_epoch(self, stage: str) -> None:
        own = self._own[stage]
        values = self._collected[stage].compute() | (own.compute() if own is not None else {})
        metrics = {f"{stage}_{name}": value for name, value in values.items()}
        self.epoch_metrics |= metrics
        self.log_dict(metrics)

    def on_train_epoch_start(self) -> None:
        self.epoch_metrics = {}

    def on_train_epoch_end(self) -> None:
        self._log_epoch("train")

    def on_validation_epoch_end(self) -> None:
        self._log_epoch("val")

    def on_test_epoch_end(self) -> None:
        self._log_epoch("test")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= self.replaced_in_checkpoint

    def configure_optimizers(self) -> Any:
        assert self._make_optimizer is not None
        optimizer = self._make_optimizer(self.network.parameters())
        scheduler = self._make_scheduler(optimizer)
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}
