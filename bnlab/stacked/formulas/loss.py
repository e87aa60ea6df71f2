"""The mean cross-entropy of K networks, each over its own batch, and its gradient.

Logits are transposed to (K, classes, N), where log_softmax over few classes is much faster, and N is padded to whole
vectors: a remainder would be rounded differently than for a single network. If the classes fill a vector, a sum over
transposed logits is rounded differently, too, and they are not transposed.
"""

from functools import cache

import torch
from torch import Tensor

from bnlab.internals.torch_internals import log_softmax_backward

__all__ = ["cross_entropy", "cross_entropy_and_gradient"]

_VECTOR = 32  # a multiple of the lanes of a vector register, for fp32 and float64


def cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Return L = -mean_n log softmax(z_n)[y_n], (K,), from z (K, N, classes) and y (K, N) or, shared, (N,)."""
    log_p, dim = _log_p(logits)
    return _losses(log_p, _index(logits, classes, dim), dim)


def cross_entropy_and_gradient(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return L, (K,), and dL/dz = (softmax(z) - one_hot(y)) / N, (K, N, classes)."""
    num_samples = logits.shape[1]
    log_p, dim = _log_p(logits)
    index = _index(logits, classes, dim)
    # The operation that autograd calls for a single network gives the same gradient, bit for bit.
    gradient = torch.zeros_like(log_p).scatter_(dim, index, -1 / num_samples)
    gradient = log_softmax_backward(gradient, log_p, dim, logits.dtype)
    losses = _losses(log_p, index, dim)
    return losses, gradient if dim == 2 else gradient[..., :num_samples].mT.contiguous()


def _log_p(logits: Tensor) -> tuple[Tensor, int]:
    """Return log softmax(z) and the dimension of its classes."""
    K, N, num_classes = logits.shape
    if logits.is_cpu and not _transposing_is_exact(num_classes, logits.dtype):
        return torch.log_softmax(logits, 2), 2
    transposed = logits.new_zeros(K, num_classes, _padded(N))
    transposed[..., :N].copy_(logits.mT)
    return torch.log_softmax(transposed, 1), 1


@cache
def _transposing_is_exact(num_classes: int, dtype: torch.dtype) -> bool:
    """Test whether transposed logits give the same bits, which depends on the processor."""
    logits = torch.randn(1024, num_classes, dtype=dtype, generator=torch.Generator().manual_seed(0))
    return torch.equal(torch.log_softmax(logits.T.contiguous(), 0), torch.log_softmax(logits, 1).T)


def _padded(num_samples: int) -> int:
    """Round up to whole vectors."""
    return -(-num_samples // _VECTOR) * _VECTOR


def _index(logits: Tensor, classes: Tensor, dim: int) -> Tensor:
    return classes.expand(logits.shape[:2]).unsqueeze(dim)


def _losses(log_p: Tensor, index: Tensor, dim: int) -> Tensor:
    return log_p.gather(dim, index).squeeze(dim).mean(1).neg_()
