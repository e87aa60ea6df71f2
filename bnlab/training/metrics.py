"""This replaces torchmetrics, which rounds to fp32 and takes longer per step; delete it when neither holds.

Loss and score of an epoch are accumulated as tensors, so that nothing waits for the device before the epoch ends.
Figures: bnlab/bench/records/library_functions.md.
"""

import torch
from torch import Tensor

from bnlab.data.target_scale import AS_THEY_ARE, TargetScale

__all__ = ["ClassificationMetrics", "EpochMetrics", "RegressionMetrics"]


REDUCE_EVERY = 64  # batches: one argmax for many costs less than one per batch, and their logits are small


class EpochMetrics:
    """Collect the mean loss of each batch; the epoch's mean weighs every sample equally."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._losses: list[Tensor] = []
        self._sizes: list[int] = []

    def update(self, outputs: Tensor, y: Tensor, loss: Tensor) -> None:
        """Add a batch: outputs (N, outputs), labels y (N,), and the batch's mean loss, a scalar."""
        self._losses.append(loss.detach())
        self._sizes.append(len(y))

    def mean_loss(self) -> float:
        losses = torch.stack(self._losses).cpu().double()
        sizes = torch.tensor(self._sizes, dtype=torch.float64)
        return float((losses * sizes).sum() / self.num_samples)

    @property
    def num_samples(self) -> int:
        return sum(self._sizes)

    def compute(self) -> dict[str, float]:
        """Return the loss and the score over the samples seen since the last call."""
        raise NotImplementedError


class ClassificationMetrics(EpochMetrics):
    """Compute the mean cross-entropy and the accuracy in [0, 1]."""

    def reset(self) -> None:
        super().reset()
        self._logits: list[Tensor] = []
        self._classes: list[Tensor] = []
        self._corrects: list[Tensor] = []

    def update(self, outputs: Tensor, y: Tensor, loss: Tensor) -> None:
        super().update(outputs, y, loss)
        self._logits.append(outputs.detach())
        self._classes.append(y)
        if len(self._logits) == REDUCE_EVERY:
            self._count_correct()

    def _count_correct(self) -> None:
        if self._logits:
            self._corrects.append((torch.cat(self._logits).argmax(1) == torch.cat(self._classes)).sum())
            self._logits, self._classes = [], []

    def compute(self) -> dict[str, float]:
        self._count_correct()
        num_correct = torch.stack(self._corrects).sum().item()
        metrics = {"loss": self.mean_loss(), "accuracy": num_correct / self.num_samples}
        self.reset()
        return metrics


class RegressionMetrics(EpochMetrics):
    """Compute the mean squared error in the unit of y squared, and R^2 (`bnlab.metrics`).

    Args:
        scale: the scale of the targets.
    """

    def __init__(self, scale: TargetScale = AS_THEY_ARE) -> None:
        super().__init__()
        self._scale = scale

    def reset(self) -> None:
        super().reset()
        self._targets: list[Tensor] = []

    def update(self, outputs: Tensor, y: Tensor, loss: Tensor) -> None:
        super().update(outputs, y, loss)
        self._targets.append(y)

    def compute(self) -> dict[str, float]:
        mean_loss = self.mean_loss()
        variance = float(torch.cat(self._targets).double().var(correction=0))
        metrics = {
            "loss": mean_loss * self._scale.std**2,
            "r2": 1 - mean_loss / variance if variance else -float("inf"),
        }
        self.reset()
        return metrics
