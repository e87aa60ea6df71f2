"""The mean squared error of K networks with one output, each over its own batch, and its gradient."""

import torch
from torch import Tensor

__all__ = ["squared_error", "squared_error_and_gradient", "target_sums"]


def squared_error(outputs: Tensor, y: Tensor) -> Tensor:
    """Return L = mean_n (f_n - y_n)^2, (K,), from f (K, N, 1) and y (K, N) or, shared, (N,)."""
    return (outputs.squeeze(2) - y).square_().mean(1)


def squared_error_and_gradient(outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return L, (K,), and dL/df = 2 (f - y) / N, (K, N, 1)."""
    residuals = outputs.squeeze(2) - y
    losses = residuals.square().mean(1)
    return losses, residuals.mul_(2 / outputs.shape[1]).unsqueeze(2)


def target_sums(outputs: Tensor, y: Tensor) -> Tensor:
    """Return the sums of y and y^2, (K, 2), float64, which R^2 needs besides the loss."""
    y = y.double().expand(outputs.shape[:2])
    return torch.stack([y.sum(1), y.square().sum(1)], 1)
