"""The mean cross-entropy of K networks, each over its own batch, and its gradient.

Logits are (K, classes, N): along the samples, log_softmax over 10 classes takes a twentieth of its time along classes.
"""

import torch
from torch import Tensor

__all__ = ["cross_entropy", "cross_entropy_and_gradient"]


def cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """L = -mean_n log softmax(z_n)[y_n], (K,), from z (K, classes, N) and y (K, N) or, shared, (N,)."""
    return torch.log_softmax(logits, 1).gather(1, _index(logits, classes)).squeeze(1).mean(1).neg_()


def cross_entropy_and_gradient(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """L, (K,), and dL/dz = (softmax(z) - one_hot(y)) / N, (K, classes, N)."""
    index = _index(logits, classes)
    log_p = torch.log_softmax(logits, 1)
    losses = log_p.gather(1, index).squeeze(1).mean(1).neg_()
    gradient = log_p.exp_()
    gradient.scatter_add_(1, index, gradient.new_full((), -1.0).expand(index.shape))
    return losses, gradient.div_(logits.shape[2])


def _index(logits: Tensor, classes: Tensor) -> Tensor:
    return classes.expand(len(logits), logits.shape[2]).unsqueeze(1)
