"""The CPU kernel as a back end that is told in Python where the numbers are, for one network or a stack of them.

Its arguments have to be as `takes` and `are_readable_in_backward` say: C reads whatever is at the addresses.
"""

from typing import Any

import torch
from torch import Tensor

from bnlab.batch_norm.arithmetic.arguments import Settings
from bnlab.batch_norm.arithmetic.back_end import Found, Gradients, Needs, Saved
from bnlab.batch_norm.arithmetic.plain import are_in_memory
from bnlab.batch_norm.arithmetic.readable import are_readable
from bnlab.batch_norm.arithmetic.running import count_batch
from bnlab.batch_norm.back_ends import kernel
from bnlab.batch_norm.back_ends.kernel_check import BACKWARD, FORWARD, Problem

__all__ = ["backward", "forward", "takes"]


def takes(x: Tensor, weight: Tensor | None, bias: Tensor | None, settings: Settings) -> bool:
    return kernel.is_available() and are_readable(x, weight, bias, settings)


def forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, settings: Settings
) -> tuple[Tensor, Saved, Found | None]:
    """y; x, weight, and in one row the (2, *stack, C) rounded means and 1 / sqrt(var + eps).

    The counter may be of any dtype, shape and device.
    """
    running_mean, running_var, num_batches_tracked, momentum, eps, _, stack_dims, returns_statistics = settings
    given, x = x, x.contiguous()
    y = torch.empty_like(x)
    shape = x.shape[:stack_dims] + x.shape[stack_dims + 1 : stack_dims + 2]
    statistics = x.new_empty(2 * shape.numel())  # of one dimension, which is faster
    var = x.new_empty(shape) if returns_statistics else None
    _momentum, momentum_pointer, momentum_number = number(count_batch(num_batches_tracked, momentum), x, stack_dims)
    _eps, eps_pointer, eps_number = number(eps, x, stack_dims)
    run(
        x,
        weight,
        statistics,
        stack_dims,
        direction=FORWARD,
        out=y.data_ptr(),
        bias=pointer(bias),
        unbiased_var=pointer(var),
        running_mean=pointer(running_mean),
        running_var=pointer(running_var),
        eps=eps_pointer,
        momentum=momentum_pointer,
        eps_number=eps_number,
        momentum_number=momentum_number,
    )
    return y, (given, weight, statistics), None if var is None else (statistics.view(2, *shape)[0], var)


def backward(saved: Saved, grad_y: Tensor, stack_dims: int, needs: Needs) -> Gradients:
    x, weight, statistics = saved
    assert x is not None
    assert statistics is not None
    needs_x, needs_weight, needs_bias = needs
    x, grad_y = x.contiguous(), grad_y.contiguous()
    shape = x.shape[:stack_dims] + x.shape[stack_dims + 1 : stack_dims + 2]
    grad_x = torch.empty_like(x) if needs_x else None
    grad_weight, grad_bias = (
        None if not needed else x.new_empty(shape) if weight is None else torch.empty_like(weight)
        for needed in (needs_weight, needs_bias)
    )
    run(
        x,
        weight,
        statistics,
        stack_dims,
        direction=BACKWARD,
        grad_y=grad_y.data_ptr(),
        out=pointer(grad_x),
        grad_weight=pointer(grad_weight),
        grad_bias=pointer(grad_bias),
    )
    return grad_x, grad_weight, grad_bias


def run(x: Tensor, weight: Tensor | None, statistics: Tensor, stack_dims: int, **others: Any) -> None:
    """Run the kernel with what forward and backward have in common, and others."""
    shape, mean = x.shape, statistics.data_ptr()
    kernel.run_of[x.dtype](
        Problem(
            x=x.data_ptr(),
            weight=pointer(weight),
            mean=mean,
            inv_std=mean + statistics.numel() // 2 * x.itemsize,
            K=shape[:stack_dims].numel(),
            N=shape[stack_dims],
            C=shape[stack_dims + 1],
            L=shape[stack_dims + 2 :].numel(),
            threads=1 if x.numel() <= kernel.SMALL else kernel.num_threads(),
            **others,
        )
    )


def number(value: Tensor | float, x: Tensor, stack_dims: int) -> tuple[Tensor | None, int | None, float]:
    """A number per network as the tensor that owns them and a pointer, a number for all as itself."""
    if not isinstance(value, Tensor) or not value.dim():
        return None, None, float(value)
    num_networks = x.shape[:stack_dims].numel()
    if value.numel() != num_networks:
        raise ValueError(f"Each of {num_networks} networks must have a number, but there are {tuple(value.shape)}.")
    if not are_in_memory((value,), x.dtype) or not value.is_contiguous():
        value = torch.empty(value.shape, dtype=x.dtype, device="cpu").copy_(value.detach())
    return value, value.data_ptr(), 0.0


def pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
