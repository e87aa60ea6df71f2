"""The back end of torch's own batch norm, given x less its rounded mean: small batches where there is no kernel.

torch sums rows in fp32 one after the other. Of x it would lose digits to the mean; of x less its rounded mean the sums
of few rows are exact enough, and one operation does what takes `in_place.py` twelve.
"""

import ctypes

import torch
from torch import Tensor

from bnlab.batch_norm.arithmetic.arguments import Settings
from bnlab.batch_norm.arithmetic.back_end import Gradients, Needs, Saved
from bnlab.batch_norm.arithmetic.formulas import per_channel
from bnlab.batch_norm.arithmetic.plain import check_memory
from bnlab.batch_norm.arithmetic.readable import are_readable, are_readable_in_backward
from bnlab.batch_norm.arithmetic.running import count_batch
from bnlab.batch_norm.back_ends.map_networks import map_networks

__all__ = ["backward", "forward", "takes"]

FEW_ROWS = 64  # with 128, errors exceed 1e-6
SMALL = 65536  # numbers of a network; of more, the passes over memory count, and `in_place.py` has fewer

native_forward = torch.ops.aten.native_batch_norm.default
native_backward = torch.ops.aten.native_batch_norm_backward.default


def takes(x: Tensor, weight: Tensor | None, bias: Tensor | None, settings: Settings) -> bool:
    running_mean, running_var = settings.running_mean, settings.running_var
    shape = x.shape[settings.stack_dims :]
    return (
        shape.numel() <= SMALL
        and not settings.returns_statistics
        and are_readable(x, weight, bias, settings)
        and (len(shape) == 3 or (len(shape) == 2 and shape[0] <= FEW_ROWS))
        # Of statistics in one place, the mean is to be moved first, and all of the way.
        and (running_mean is None or running_var is None or running_mean.data_ptr() != running_var.data_ptr())
    )


def forward(x: Tensor, weight: Tensor | None, bias: Tensor | None, settings: Settings) -> tuple[Tensor, Saved, None]:
    """y; and x, weight, the rounded means and 1 / sqrt(var + eps), (*stack, C)."""
    running_mean, running_var, num_batches_tracked, momentum, eps, _, stack_dims, _ = settings
    numbers = count_batch(num_batches_tracked, momentum), eps
    y, mean, inv_std = map_networks(
        forward_one, x.shape[:stack_dims], x, weight, bias, running_mean, running_var, *numbers
    )
    return y, (x, weight, mean, inv_std), None


def forward_one(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: Tensor | float,
    eps: Tensor | float,
) -> tuple[Tensor, Tensor, Tensor]:
    mean = x.mean(0 if x.dim() == 2 else (0, 2))
    c = torch.sub(x, per_channel(mean, x, 0)).contiguous()
    numbers = float(momentum), float(eps)
    if x.dtype is torch.float32:  # as the numbers of a stack, which are in tensors of x's dtype
        numbers = ctypes.c_float(numbers[0]).value, ctypes.c_float(numbers[1]).value
    # torch moves the running mean towards the mean of c, and the next line the rest of the way.
    y, _, inv_std = native_forward(c, weight, bias, running_mean, running_var, True, *numbers)
    if running_mean is not None:
        running_mean.add_(mean, alpha=numbers[0])
    return y, mean, inv_std


def backward(saved: Saved, grad_y: Tensor, stack_dims: int, needs: Needs) -> Gradients | None:
    x, weight, *statistics = saved
    assert x is not None
    check_memory(x, grad_y, weight)
    if not are_readable_in_backward(saved, grad_y, stack_dims):
        return None
    stack = x.shape[:stack_dims]
    grad_x, grad_weight, grad_bias = map_networks(backward_one, stack, x, grad_y, weight, *statistics, [*needs])
    return grad_x, grad_weight, grad_bias


def backward_one(
    x: Tensor, grad_y: Tensor, weight: Tensor | None, mean: Tensor, inv_std: Tensor, needs: list[bool]
) -> tuple[Tensor | None, ...]:
    c = torch.sub(x, per_channel(mean, x, 0)).contiguous()
    residual = c.mean(0 if x.dim() == 2 else (0, 2))
    return native_backward(grad_y.contiguous(), c, weight, None, None, residual, inv_std, True, 0.0, needs)
