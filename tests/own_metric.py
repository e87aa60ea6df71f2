"""Metrics of a user's own: a function, and a class as torchmetrics has them."""

import torch
from torch import Tensor
from torchmetrics import Metric


def macro_f1(outputs: Tensor, y: Tensor) -> Tensor:
    """The mean over classes of F1 = 2 tp / (2 tp + fp + fn)."""
    classes = range(outputs.shape[1])
    predicted = outputs.argmax(1)
    scores = [2 * ((predicted == k) & (y == k)).sum() / ((predicted == k).sum() + (y == k).sum()) for k in classes]
    return torch.stack(scores).nan_to_num().mean()


class TopK(Metric):
    """The share of samples whose class is not among their k largest outputs."""

    higher_is_better = False

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k
        self.add_state("misses", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, y: Tensor) -> None:
        self.misses += (outputs.topk(self.k, 1).indices != y.unsqueeze(1)).all(1).sum()
        self.total += len(y)

    def compute(self) -> Tensor:
        return self.misses / self.total


def largest_error(predictions: Tensor, y: Tensor) -> Tensor:
    return (predictions - y).abs().max()


def raises(outputs: Tensor, y: Tensor) -> float:
    raise ZeroDivisionError("of\nthe metric")


def raises_after_long(outputs: Tensor, y: Tensor) -> float:
    """For networks whose outputs have become large, as those of a high learning rate do."""
    if outputs.abs().max() > 30:
        raise ZeroDivisionError("too large")
    return 0.0


def both(outputs: Tensor, y: Tensor) -> Tensor:
    return torch.tensor([0.0, 1.0])
