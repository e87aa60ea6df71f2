"""Batch norm on the CPU in plain torch: x less its rounded mean, given to what torch has for its own batch norm.

torch's batch norm is one pass where these formulas are three, and of x less its rounded mean it is exact, as long as
few rows are added up one after the other in fp32. Of its backward only the sums are taken: for dL/dx it would allocate
memory twice, where two passes can write it over what was kept, whose pages are there.

Tensors are as `are_plain` of `eager.py` says; nothing here can be differentiated.
"""

import ctypes
import functools
import itertools
from collections.abc import Iterable

import torch
from torch import Tensor

from bnlab.batch_norm import in_place
from bnlab.batch_norm.arguments import Settings, one_nth
from bnlab.batch_norm.formulas import batch_dims, per_channel
from bnlab.batch_norm.sums import is_exact, sums

__all__ = ["backward", "normalize"]

native_forward = torch.ops.aten.native_batch_norm.default


@functools.lru_cache(maxsize=1024)
def constant(value: float, dtype: torch.dtype) -> Tensor:
    """A number of no dimensions, kept: of a plain number torch makes one in every operation, in 3 of its 6 us."""
    return torch.tensor(value, dtype=dtype, device="cpu")


def normalize(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, settings: Settings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y; c, x less its rounded mean; the mean of c; and 1 / sqrt(var + eps). The running statistics are updated."""
    running_mean, running_var, num_batches_tracked, momentum, eps, _, stack_dims = settings
    if num_batches_tracked is not None:
        num_batches_tracked.add_(constant(1, torch.int64))
    if momentum is None:
        momentum = 0.0 if num_batches_tracked is None else one_nth(num_batches_tracked, x.shape[:stack_dims])
    if not stack_dims:
        numbers = number_of_network(momentum, (), x.dtype), number_of_network(eps, (), x.dtype)
        return normalize_one(x, weight, bias, running_mean, running_var, *numbers)
    results = [
        normalize_one(
            x[index],
            of_network(weight, index),
            of_network(bias, index),
            of_network(running_mean, index),
            of_network(running_var, index),
            number_of_network(momentum, index, x.dtype),
            number_of_network(eps, index, x.dtype),
        )
        for index in networks(x, stack_dims)
    ]
    y, c, residual, inv_std = (in_one(each, x, stack_dims) for each in zip(*results, strict=True))
    return y, c, residual, inv_std


def networks(x: Tensor, stack_dims: int) -> Iterable[tuple[int, ...]]:
    """The index of every network."""
    return itertools.product(*map(range, x.shape[:stack_dims]))


def of_network(values: Tensor | None, index: tuple[int, ...]) -> Tensor | None:
    return None if values is None else values[index]


def number_of_network(number: Tensor | float, index: tuple[int, ...], dtype: torch.dtype) -> float:
    """In the dtype of x: a stack, whose numbers are in tensors, equals single networks."""
    if isinstance(number, Tensor):
        number = float(number[index] if number.dim() else number)
    return ctypes.c_float(number).value if dtype is torch.float32 else number


def in_one(results: tuple[Tensor, ...], x: Tensor, stack_dims: int) -> Tensor:
    return torch.stack(results).unflatten(0, x.shape[:stack_dims])


def normalize_one(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    num_values = x.shape[0] if x.dim() == 2 else x.numel() // x.shape[1]
    a_value = constant(1 / num_values, x.dtype)
    mean = x.sum(0 if x.dim() == 2 else batch_dims(x, 0)).mul_(a_value)
    c = in_place.minus(x, per_channel(mean, x, 0), overwrite=False)
    share = running_mean is not None and running_var is not None and running_mean.data_ptr() == running_var.data_ptr()
    if is_exact(c) and not share:  # of statistics in one place, the mean is to be moved first, and all of the way
        # torch moves the running mean towards the mean of c, and this the rest of the way.
        y, residual, inv_std = native_forward(c, weight, bias, running_mean, running_var, True, momentum, eps)
        if running_mean is not None:
            running_mean.add_(mean, alpha=momentum)
        return y, c, residual, inv_std
    squares, residual = sums(c, c, torch.zeros_like(mean), torch.ones_like(mean))
    residual.mul_(a_value)
    var = squares.mul_(a_value).addcmul_(residual, residual, value=-1).clamp_(min=0)
    inv_std = (var + eps).rsqrt_()
    scale = inv_std if weight is None else inv_std * weight
    shift = residual * -scale if bias is None else torch.addcmul(bias, residual, scale, value=-1)
    y = torch.addcmul(per_channel(shift, x, 0), c, per_channel(scale, x, 0))
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(mean.add_(residual), momentum)
        running_var.lerp_(var.mul_(num_values / (num_values - 1)), momentum)
    return y, c, residual, inv_std


def backward(
    c: Tensor,
    grad_y: Tensor,
    weight: Tensor | None,
    residual: Tensor,
    inv_std: Tensor,
    stack_dims: int,
    grad_x: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """dL/dweight and dL/dbias from what `normalize` returned; dL/dx is written to `grad_x`, which may be c itself."""
    g = grad_y.contiguous()
    if not stack_dims:
        return backward_one(c, g, weight, residual, inv_std, grad_x)
    gradients = [
        backward_one(
            c[index],
            g[index],
            of_network(weight, index),
            residual[index],
            inv_std[index],
            of_network(grad_x, index),
        )
        for index in networks(c, stack_dims)
    ]
    grad_weight, grad_bias = (in_one(each, c, stack_dims) for each in zip(*gradients, strict=True))
    return grad_weight, grad_bias


def backward_one(
    c: Tensor, g: Tensor, weight: Tensor | None, residual: Tensor, inv_std: Tensor, grad_x: Tensor | None
) -> tuple[Tensor, Tensor]:
    """With u = inv_std dL/dweight: dL/dx = weight inv_std (g - (c u + dL/dbias - residual u) / N)."""
    grad_weight, grad_bias = sums(g, c, residual, inv_std)
    if grad_x is None:
        return grad_weight, grad_bias
    a_value = -1 / (c.numel() // c.shape[1])
    u = grad_weight * inv_std
    scale = inv_std if weight is None else inv_std * weight
    shift = torch.addcmul(grad_bias, residual, u, value=-1).mul_(scale).mul_(constant(a_value, c.dtype))
    torch.addcmul(g, c, per_channel(u, c, 0), value=a_value, out=grad_x)
    torch.addcmul(per_channel(shift, c, 0), grad_x, per_channel(scale, c, 0), out=grad_x)
    return grad_weight, grad_bias
