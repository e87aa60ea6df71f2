"""The loss and the score of K networks: one record for classification, one for regression."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from bnlab.stacked.formulas.loss import cross_entropy, cross_entropy_and_gradient
from bnlab.stacked.formulas.metrics import count_hits
from bnlab.stacked.formulas.squared_error import squared_error, squared_error_and_gradient, target_sums

__all__ = ["CLASSES", "NUMBERS", "Criterion"]

_BatchFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Criterion:
    """Functions of the outputs (K, N, outputs) and the labels, (K, N) or (N,).

    Attributes:
        losses: (K,).
        losses_and_gradient: (K,) and dL/d(outputs).
        counts: what the score needs besides the loss, (K, ...), to be summed over batches.
        takes_classes: whether labels are classes.
        keeps_outputs: whether a model keeps its newest outputs for metrics that need them.
    """

    losses: _BatchFunction
    losses_and_gradient: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    counts: _BatchFunction
    takes_classes: bool
    keeps_outputs: bool = False


CLASSES = Criterion(cross_entropy, cross_entropy_and_gradient, count_hits, takes_classes=True)
NUMBERS = Criterion(squared_error, squared_error_and_gradient, target_sums, takes_classes=False)
