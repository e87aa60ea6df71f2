r"""The formulas of batch norm as plain torch operations: every other form in this package is tested against these.

Shapes, here and in the whole package: x is (*stack, N, C) or (*stack, N, C, L), where `stack` are `stack_dims` leading
dimensions of independent networks; what belongs to a channel (weight, bias, mean, ...) is (*stack, C); eps is a number
or (*stack); a mask is (*stack, N) or (*stack, N, L), true where a sample counts.

A mean near 1e6 has a rounding error of 0.06 in fp32, and so would x - mean. `residual = mean(x - mean)` recovers that
error, to the last bit because x - mean is small, and is subtracted everywhere.
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
    """A batch less its rounded mean: x - mean, as x; mean(x - mean), (*stack, C); and the values per channel."""

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
    """View a number per network, (*stack), so that it broadcasts against (*stack, C), in that one's dtype.

    A number alone is rounded to that dtype too, by the operation it takes part in: a stack equals single networks.
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
    """Count the values per channel: a number, or (*stack, 1) if there is a mask. At least 1, to divide by."""
    if mask is not None:
        return num_valid(mask, stack_dims).clamp(min=1).to(compute_dtype(x))
    result = x.shape[stack_dims]
    for size in x.shape[stack_dims + 2 :]:
        result = result * size
    return result


def num_valid(mask: Tensor, stack_dims: int) -> Tensor:
    """How many values a mask leaves, int64, (*stack, 1)."""
    return mask.sum(list(range(stack_dims, mask.dim()))).unsqueeze(-1)


def inverse_std(var: Tensor, eps: Tensor | float) -> Tensor:
    return torch.rsqrt(var + per_network(eps, var))


def masked(values: Tensor, mask: Tensor | None, stack_dims: int) -> Tensor:
    """Zero where the mask is false; by selection, so that a NaN in the padding stays there."""
    return values if mask is None else torch.where(per_sample(mask, stack_dims), values, 0)


def centered(x: Tensor, mean: Tensor, mask: Tensor | None, stack_dims: int) -> Tensor:
    """x - mean in the dtype computed in, and zero where the mask is false."""
    return masked(x.to(mean.dtype) - per_channel(mean, x, stack_dims), mask, stack_dims)


def subtract_mean(x: Tensor, mean: Tensor, mask: Tensor | None, stack_dims: int) -> Centered:
    """A batch less its mean, which was rounded."""
    c = centered(x, mean, mask, stack_dims)
    number = count(x, mask, stack_dims)
    return Centered(c, total(c, stack_dims) / number, number)


def batch_statistics(x: Tensor, mask: Tensor | None, stack_dims: int) -> tuple[Tensor, Tensor, Centered]:
    """The rounded mean and the biased variance of a batch, (*stack, C), and the batch less that mean."""
    x = x.to(compute_dtype(x))
    # The mean's own rounding cancels against the residual in value, and in derivative too: it is a constant here.
    mean = (total(masked(x, mask, stack_dims), stack_dims) / count(x, mask, stack_dims)).detach()
    batch = subtract_mean(x, mean, mask, stack_dims)
    c, residual, number = batch
    return mean, (total(c * c, stack_dims) / number - residual * residual).clamp(min=0), batch


def normalize(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: Tensor | float, mask: Tensor | None, stack_dims: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, and of the batch the rounded mean, the mean, the biased variance and 1 / sqrt(var + eps), each (*stack, C)."""
    rounded, var, (c, residual, _) = batch_statistics(x, mask, stack_dims)
    inv_std = inverse_std(var, eps)
    scale = inv_std if weight is None else inv_std * weight
    y = affine(c, residual, scale, bias, mask, stack_dims)
    return y.to(x.dtype).contiguous(), rounded, rounded + residual, var, inv_std


def affine(
    c: Tensor, residual: Tensor | None, scale: Tensor, bias: Tensor | None, mask: Tensor | None, stack_dims: int
) -> Tensor:
    """(c - residual) * scale + bias, with what is per channel multiplied out first."""
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
    r"""dL/dx, dL/dweight and dL/dbias from g = dL/dy.

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
