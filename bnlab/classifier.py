"""Learning classes."""

import torch.nn.functional as F
from torch import Tensor

from bnlab.learner import Learner
from bnlab.metrics import ClassificationMetrics

__all__ = ["Classifier"]


class Classifier(Learner):
    """Minimize the cross-entropy of the logits (N, classes); the score is the accuracy."""

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs, y)

    def make_metrics(self) -> ClassificationMetrics:
        return ClassificationMetrics()
