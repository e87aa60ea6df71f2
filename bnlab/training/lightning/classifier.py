"""The LightningModule that learns classes."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from bnlab.training.lightning.learner import Learner
from bnlab.training.metrics import ClassificationMetrics
from bnlab.training.network_outputs import check_outputs

__all__ = ["Classifier"]


class Classifier(Learner):
    """Minimize the cross-entropy of the logits (N, classes); the score is the accuracy.

    Args:
        num_classes: the number of classes, or None if unknown.
        network, arguments, named: as in `Learner`.
    """

    def __init__(self, network: nn.Module, *arguments: Any, num_classes: int | None = None, **named: Any) -> None:
        self._num_classes = num_classes
        super().__init__(network, *arguments, **named)

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        check_outputs(outputs, len(y), self._num_classes)
        return F.cross_entropy(outputs, y)

    def make_metrics(self) -> ClassificationMetrics:
        return ClassificationMetrics()
