r"""The formulas of batch norm as plain torch operations: every other form in this package is tested against these.

Shapes, here and in the whole package: x is (*stack, N, C) or (*stack, N, C, L), where `stack` are `stack_dims` leading
dimensions of independent networks; values per channel (weight, bias, mean, ...) are (*stack, C); eps is a number or
(*stack); a mask is (*stack, N) or (*stack, N, L), true where a sample counts.

In fp32, the rounding error of a large mean would also be in x - mean. `residual = mean(x - mean)` recovers that error,
to the last bit because x - mean is small, and is subtracted everywhere.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Centered",
    "affine",
    "backward",
    "batch_statistics",
    "centered",
    "compute_dtype",
    "normalize",
    "subtract_mean",
]


class Centered(NamedTuple):
    """A batch minus its rounded mean: x - mean; mean(x - mean), (*stack, C); and the number of values per channel."""

    c: Tensor
    residual: Tensor
    num_values: Tensor | int


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of the computation: fp32 for half types, as in torch's own layer."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


def per_channel(values: Tensor, x: Tensor, stack_dims: int) -> Tensor:
    """View (*stack, C) so that it broadcasts against x."""
    if stack_dims or x.dim() > 2:
        return values.reshape(values.shape[:stack_dims] + (1, values.shape[-1]) + (1,) * (x.dim() - stack_dims - 2))
    return values


def per_network(values: Tensor | float, channels: Tensor) -> Tensor | float:
    """View one number per network, (*stack), in the dtype of `channels`, (*stack, C), so that it broadcasts against it.

    A plain number is rounded to the same dtype by the operation that uses it, so that a stack equals single networks.
    """
    return values.to(channels.dtype).unsqueeze(-1) if isinstance(values, Tensor) and values.dim() else values


def per_sample(mask: Tensor, stack_dims: int) -> Tensor:
    """View a mask, (*stack, N) or (*stack, N, L), so that it broadcasts against x."""
    return mask.unsqueeze(stack_dims + 1)


def batch_dims(x: Tensor, stack_dims: int) -> list[int]:
    """List the dimensions of x over which statistics are taken: N, and L if there is one."""
    return [dim for dim in range(stack_dims, x.dim()) if dim != stack_dims + 1]


def total(values: Tensor, stack_dims: int) -> Tensor:
    """Sum x-shaped values over the batch: (*stack, C)."""
    return values.sum(batch_dims(values, stack_dims))


def count(x: Tensor, mask: Tensor | None, stack_dims: int) -> Tensor | int:
    """Count the values per channel, at least 1, so that it can divide: a number, or (*stack, 1) if there is a mask."""
    if mask is not None:
        return num_valid(mask, stack_dims).clamp(min=1).to(compute_dtype(x))
    result = x.shape[stack_dims]
    for size in x.shape[stack_dims + 2 :]:
        result = result * size
    return result


def num_valid(mask: Tensor, stack_dims: int) -> Tensor:
    """Count the values where the mask is true, (*stack, 1), int64."""
    return mask.sum(list(range(stack_dims, mask.dim()))).unsqueeze(-1)


def inverse_std(var: Tensor, eps: Tensor | float) -> Tensor:
    return torch.rsqrt(var + per_network(eps, var))


def masked(values: Tensor, mask: Tensor | None, stack_dims: int) -> Tensor:
    """Set values to zero where the mask is false; selection, unlike a product, also removes a NaN in the padding."""
    return values if mask is None else torch.where(per_sample(mask, stack_dims), values, 0)


def centered(x: Tensor, mean: Tensor, mask: Tensor | None, stack_dims: int) -> Tensor:
    """Return x - mean in the dtype of the mean, and zero where the mask is false."""
    return masked(x.to(mean.dtype) - per_channel(mean, x, stack_dims), mask, stack_dims)


def subtract_mean(x: Tensor, mean: Tensor, mask: Tensor | None, stack_dims: int) -> Centered:
    """Return the batch minus its rounded mean, with the residual of that mean."""
    c = centered(x, mean, mask, stack_dims)
    number = count(x, mask, stack_dims)
    return Centered(c, total(c, stack_dims) / number, number)


def batch_statistics(x: Tensor, mask: Tensor | None, stack_dims: int) -> tuple[Tensor, Tensor, Centered]:
    """Return the rounded mean and the biased variance of a batch, (*stack, C), and the batch minus that mean."""
    x = x.to(compute_dtype(x))
    # The rounded mean is a constant here: the residual cancels its rounding error in the value and its derivative.
    mean = (total(masked(x, mask, stack_dims), stack_dims) / count(x, mask, stack_dims)).detach()
    batch = subtract_mean(x, mean, mask, stack_dims)
    c, residual, number = batch
    return mean, (total(c * c, stack_dims) / number - residual * residual).clamp(min=0), batch


def normalize(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: Tensor | float, mask: Tensor | None, stack_dims: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return y and, each (*stack, C), the batch's rounded mean, mean, biased variance and 1 / sqrt(var + eps)."""
    rounded, var, (c, residual, _) = batch_statistics(x, mask, stack_dims)
    inv_std = inverse_std(var, eps)
    scale = inv_std if weight is None else inv_std * weight
    y = affine(c, residual, scale, bias, mask, stack_dims)
    return y.to(x.dtype).contiguous(), rounded, rounded + residual, var, inv_std


def affine(
    c: Tensor, residual: Tensor | None, scale: Tensor, bias: Tensor | None, mask: Tensor | None, stack_dims: int
) -> Tensor:
    """Return (c - residual) * scale + bias, where the terms per channel are combined first."""
    shift = bias if residual is None else -residual * scale if bias is None else bias - residual * scale
    y = c * per_channel(scale, c, stack_dims)
    return y if shift is None else masked(y + per_channel(shift, c, stack_dims), mask, stack_dims)


def backward(
    grad_y: Tensor,
    batch: Centered,
    inv_std: Tensor,
    weight: Tensor | None,
    mask: Tensor | None,
    stack_dims: int,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return dL/dx, dL/dweight and dL/dbias, given g = dL/dy.

    With x_hat = (c - residual) inv_std:
        dL/dbias = sum(g),   dL/dweight = sum(g x_hat)
        dL/dx = weight inv_std (g - sum(g) / N - x_hat sum(g x_hat) / N)
    """
    c, residual, number = batch
    g = masked(grad_y.to(c.dtype), mask, stack_dims)
    sum_g = total(g, stack_dims)
    sum_g_x_hat = (total(g * c, stack_dims) - residual * sum_g) * inv_std
    scale = inv_std if weight is None else inv_std * weight.to(c.dtype)
    slope = -scale * inv_std * sum_g_x_hat / number
    shift = -scale * sum_g / number - slope * residual
    grad_x = g * per_channel(scale, c, stack_dims) + c * per_channel(slope, c, stack_dims)
    grad_x = masked(grad_x + per_channel(shift, c, stack_dims), mask, stack_dims)
    return grad_x, sum_g_x_hat, sum_g
