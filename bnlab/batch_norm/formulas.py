r"""The formulas of batch norm as plain torch operations: every other form in this package is tested against these.

Shapes, here and in the whole package: x is (*stack, N, C) or (*stack, N, C, L), where `stack` are `stack_dims` leading
dimensions of independent networks; what belongs to a channel (weight, bias, mean, ...) is (*stack, C); eps is a number
or (*stack); a mask is (*stack, N) or (*stack, N, L), true where a sample counts.

A mean near 1e6 rounds at 0.06 in fp32, so x - mean would be off by as much. What that rounding left over is found again
as `residual = mean(x - mean)`, which is exact to the last bit because x - mean is small, and is subtracted everywhere.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Statistics",
    "affine",
    "backward",
    "batch_statistics",
    "centered",
    "computed_in",
    "update_running_statistics",
]


class Statistics(NamedTuple):
    """Of a batch, each (*stack, C): the rounded mean, mean(x - mean), the biased variance, and how many values."""

    mean: Tensor
    residual: Tensor
    var: Tensor
    num_values: Tensor | int


def computed_in(x: Tensor) -> torch.dtype:
    """Half types are computed in fp32, as torch's own layer does."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


def per_channel(values: Tensor, x: Tensor, stack_dims: int) -> Tensor:
    """View (*stack, C) so that it broadcasts against x."""
    if stack_dims or x.dim() > 2:
        return values.reshape(values.shape[:stack_dims] + (1, values.shape[-1]) + (1,) * (x.dim() - stack_dims - 2))
    return values


def per_network(values: Tensor | float, channels: Tensor) -> Tensor | float:
    """View a number a network, (*stack), so that it broadcasts against (*stack, C), in that one's dtype.

    A number alone is rounded to that dtype too, by the operation it takes part in: a stack equals single networks.
    """
    return values.to(channels.dtype).unsqueeze(-1) if isinstance(values, Tensor) and values.dim() else values


def per_sample(mask: Tensor, stack_dims: int) -> Tensor:
    """View a mask, (*stack, N) or (*stack, N, L), so that it broadcasts against x."""
    return mask.unsqueeze(stack_dims + 1)


def batch_dims(x: Tensor, stack_dims: int) -> list[int]:
    """Which dimensions of x a channel's statistics are taken over: N, and L where there is one."""
    return [dim for dim in range(stack_dims, x.dim()) if dim != stack_dims + 1]


def total(values: Tensor, stack_dims: int) -> Tensor:
    """Sum x-shaped values over the batch: (*stack, C)."""
    return values.sum(batch_dims(values, stack_dims))


def count(x: Tensor, mask: Tensor | None, stack_dims: int) -> Tensor | int:
    """How many values a channel has: a number, or (*stack, 1) if a mask says. At least 1, to divide by."""
    if mask is not None:
        return num_valid(mask, stack_dims).clamp(min=1).to(computed_in(x))
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


def batch_statistics(x: Tensor, mask: Tensor | None, stack_dims: int) -> tuple[Statistics, Tensor]:
    """The statistics of a batch, and x - mean: x.shape."""
    x = x.to(computed_in(x))
    number = count(x, mask, stack_dims)
    # The mean's own rounding cancels against the residual in value, and in derivative too: it is a constant here.
    mean = (total(masked(x, mask, stack_dims), stack_dims) / number).detach()
    c = centered(x, mean, mask, stack_dims)
    residual = total(c, stack_dims) / number
    var = (total(c * c, stack_dims) / number - residual * residual).clamp(min=0)
    return Statistics(mean, residual, var, number), c


def affine(
    c: Tensor, residual: Tensor | None, scale: Tensor, bias: Tensor | None, mask: Tensor | None, stack_dims: int
) -> Tensor:
    """(c - residual) * scale + bias, with what is per channel multiplied out first."""
    shift = bias if residual is None else -residual * scale if bias is None else bias - residual * scale
    y = c * per_channel(scale, c, stack_dims)
    return y if shift is None else masked(y + per_channel(shift, c, stack_dims), mask, stack_dims)


def backward(
    grad_y: Tensor,
    c: Tensor,
    statistics: Statistics,
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
    _, residual, _, number = statistics
    g = masked(grad_y.to(c.dtype), mask, stack_dims)
    sum_g = total(g, stack_dims)
    sum_g_x_hat = (total(g * c, stack_dims) - residual * sum_g) * inv_std
    scale = inv_std if weight is None else inv_std * weight.to(c.dtype)
    slope = -scale * inv_std * sum_g_x_hat / number
    shift = -scale * sum_g / number - slope * residual
    grad_x = g * per_channel(scale, c, stack_dims) + c * per_channel(slope, c, stack_dims)
    grad_x = masked(grad_x + per_channel(shift, c, stack_dims), mask, stack_dims)
    return grad_x, sum_g_x_hat, sum_g


def update_running_statistics(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    momentum: Tensor | float | None,
    mask: Tensor | None,
    stack_dims: int,
    *,
    recomputed: bool | Tensor = False,
) -> None:
    """Take the batch's mean and N / (N - 1) times its biased variance into the running statistics.

    What a mask leaves no value of has no mean, and what it leaves one of no variance: there the statistic stays.
    """
    if mask is not None and running_mean is not None and running_var is not None:
        valid = num_valid(mask, stack_dims).to(var.dtype)  # integers would be divided in fp32
        unbiased = var * (valid / (valid - 1).clamp(min=1))
        mean, var = known(mean, unbiased, running_mean, running_var, mask, stack_dims)
    elif running_var is not None:
        number = count(x, None, stack_dims)
        var = var * (number / (number - 1))
    move(mean, var, running_mean, running_var, num_batches_tracked, momentum, recomputed=recomputed)


def known(
    mean: Tensor, var: Tensor, running_mean: Tensor, running_var: Tensor, mask: Tensor | None, stack_dims: int
) -> tuple[Tensor, Tensor]:
    """The batch's mean and unbiased variance, or the running ones where a mask leaves too few values to have any."""
    if mask is None:
        return mean, var
    valid = num_valid(mask, stack_dims)
    return torch.where(valid > 0, mean, running_mean), torch.where(valid > 1, var, running_var)


def move(
    mean: Tensor,
    var: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    momentum: Tensor | float | None,
    *,
    recomputed: bool | Tensor = False,
) -> None:
    """running += momentum * (new - running), in place; momentum None is 1 / num_batches_tracked, this batch counted.

    A recomputed batch was counted before. It takes the same operations all the same, up to the last, because selective
    checkpointing finds what it saved by the place of an operation among its like.
    """
    if momentum is None:
        momentum = 0.0 if num_batches_tracked is None else (num_batches_tracked + 1).to(mean.dtype).reciprocal()
        if isinstance(momentum, Tensor) and momentum.numel() == 1:  # (1,) counts for one network, too
            momentum = momentum.reshape(())
    factor = per_network(momentum, mean)
    steps: list[tuple[Tensor, Tensor | int]] = []
    if num_batches_tracked is not None:
        steps.append((num_batches_tracked, 1))
    if running_mean is not None:
        steps.append((running_mean, (mean - running_mean) * factor))
    if running_var is not None:
        steps.append((running_var, (var - running_var) * factor))
    for statistic, step in steps:
        add_unless(recomputed, statistic, step)


def add_unless(recomputed: bool | Tensor, statistic: Tensor, step: Tensor | int) -> None:
    if isinstance(recomputed, Tensor):  # known when the graph is run
        # Chosen last: selective checkpointing may bring back the sum of the first forward.
        statistic.copy_(torch.where(recomputed, statistic, statistic + step))
    elif not recomputed:
        statistic.add_(step)
