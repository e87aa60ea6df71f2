"""Loss and accuracy of an epoch, accumulated as tensors: nothing waits for the device before the epoch ends."""

import torch
from torch import Tensor

__all__ = ["EpochMetrics"]


class EpochMetrics:
    """Collect (mean loss, correct predictions, size) of each batch; the epoch's means weigh every sample alike."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._corrects: list[Tensor] = []
        self._sizes: list[int] = []

    def update(self, logits: Tensor, y: Tensor, loss: Tensor) -> None:
        """Add a batch: logits (N, classes), classes y (N,), and the batch's mean loss, a scalar."""
        self._losses.append(loss.detach())
        self._corrects.append((logits.detach().argmax(1) == y).sum())
        self._sizes.append(len(y))

    def compute(self) -> dict[str, float]:
        """{"loss", "accuracy"}: means over the samples seen since the last call, accuracy in [0, 1]."""
        sizes = torch.tensor(self._sizes, dtype=torch.float64)
        losses = torch.stack(self._losses).cpu().double()
        corrects = torch.stack(self._corrects).cpu().double()
        num_samples = sizes.sum()
        self.__init__()  # type: ignore[misc]
        return {"loss": float((losses * sizes).sum() / num_samples), "accuracy": float(corrects.sum() / num_samples)}
