"""The LightningModule: loss, metrics and optimizer wiring around any network, nothing else."""

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

    Metrics are logged once an epoch: train_loss and the train score (means over the epoch, while the weights move),
    those of val and test. `epoch_metrics` holds the newest of each at full precision.

    Args:
        network: (N, ...) samples to (N, outputs).
        make_optimizer: from parameters to optimizer; None where the network is only tested.
        make_scheduler: from optimizer to a schedule that steps once an epoch, or None.
        make_own_metrics: makes the metrics of the user's own for a split, or None.
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
        self._collected = {stage: self.make_metrics() for stage in ("train", "val", "test")}
        self._own = {stage: make_own_metrics() for stage in self._collected}

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The mean over a batch, of outputs (N, outputs) and labels (N,)."""
        raise NotImplementedError

    def make_metrics(self) -> EpochMetrics:
        raise NotImplementedError

    def __setattr__(self, name: str, value: Any) -> None:
        # Replaces nn.Module's check for parameters, for a name that Lightning sets dozens of times per step. Delete
        # when that ends (bnlab/bench/records/library_functions.md).
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

    def configure_optimizers(self) -> Any:
        assert self._make_optimizer is not None
        optimizer = self._make_optimizer(self.network.parameters())
        scheduler = self._make_scheduler(optimizer)
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}
