"""Loss and accuracy of an epoch, accumulated as tensors: nothing waits for the device before the epoch ends."""

import torch
from torch import Tensor

__all__ = ["EpochMetrics"]


REDUCE_EVERY = 64  # batches: one argmax for many costs less than one each, and their logits are small


class EpochMetrics:
    """Collect the mean loss, logits and classes of each batch; the epoch's means weigh every sample alike."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._sizes: list[int] = []
        self._logits: list[Tensor] = []
        self._classes: list[Tensor] = []
        self._corrects: list[Tensor] = []

    def update(self, logits: Tensor, y: Tensor, loss: Tensor) -> None:
        """Add a batch: logits (N, classes), classes y (N,), and the batch's mean loss, a scalar."""
        self._losses.append(loss.detach())
        self._sizes.append(len(y))
        self._logits.append(logits.detach())
        self._classes.append(y)
        if len(self._logits) == REDUCE_EVERY:
            self._count_correct()

    def _count_correct(self) -> None:
        if self._logits:
            self._corrects.append((torch.cat(self._logits).argmax(1) == torch.cat(self._classes)).sum())
            self._logits, self._classes = [], []

    def compute(self) -> dict[str, float]:
        """{"loss", "accuracy"}: means over the samples seen since the last call, accuracy in [0, 1]."""
        self._count_correct()
        losses = torch.stack(self._losses).cpu().double()
        num_correct = torch.stack(self._corrects).sum().item()
        sizes = torch.tensor(self._sizes, dtype=torch.float64)
        num_samples = sum(self._sizes)
        self.__init__()  # type: ignore[misc]
        return {"loss": float((losses * sizes).sum() / num_samples), "accuracy": num_correct / num_samples}
