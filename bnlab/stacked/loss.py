"""The mean cross-entropy of K networks, each over its own batch, and its gradient.

Inside, logits are turned to (K, classes, N), where log_softmax over 10 classes takes a twentieth of its time, and N is
padded to whole vectors: what is left over would be rounded in another way than for a network alone.
"""

import torch
from torch import Tensor

__all__ = ["cross_entropy", "cross_entropy_and_gradient"]

_VECTOR = 32  # a multiple of the numbers in a vector register, fp32 and float64


def cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """L = -mean_n log softmax(z_n)[y_n], (K,), from z (K, N, classes) and y (K, N) or, shared, (N,)."""
    return _losses(_log_p(logits), _index(logits, classes))


def cross_entropy_and_gradient(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """L, (K,), and dL/dz = (softmax(z) - one_hot(y)) / N, (K, N, classes)."""
    num_samples = logits.shape[1]
    log_p, index = _log_p(logits), _index(logits, classes)
    # By the operation that autograd calls for a network alone: the same gradient, bit for bit.
    gradient = torch.zeros_like(log_p).scatter_(1, index, -1 / num_samples)
    gradient = torch.ops.aten._log_softmax_backward_data(gradient, log_p, 1, logits.dtype)
    return _losses(log_p, index), gradient[..., :num_samples].mT.contiguous()


def _log_p(logits: Tensor) -> Tensor:
    K, N, num_classes = logits.shape
    turned = logits.new_zeros(K, num_classes, padded(N))
    turned[..., :N].copy_(logits.mT)
    return torch.log_softmax(turned, 1)


def padded(num_samples: int) -> int:
    """The next multiple of the numbers in a vector."""
    return -(-num_samples // _VECTOR) * _VECTOR


def _index(logits: Tensor, classes: Tensor) -> Tensor:
    return classes.expand(logits.shape[:2]).unsqueeze(1)


def _losses(log_p: Tensor, index: Tensor) -> Tensor:
    return log_p.gather(1, index).squeeze(1).mean(1).neg_()
