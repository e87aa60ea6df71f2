"""The formulas of `formulas.py` with few allocations and few operations: each costs a small batch microseconds.

For eager mode on floating point tensors without a mask; a result is written over step by step, so nothing here can be
differentiated. The results agree with `formulas.py` to rounding.
"""

import torch
from torch import Tensor

from bnlab.batch_norm import formulas
from bnlab.batch_norm.formulas import batch_dims, per_channel
from bnlab.batch_norm.sums import SMALL, sums

__all__ = ["backward", "normalize", "update_running_statistics"]

# Elsewhere than on the CPU, the products are held at most a quarter at a time.
PARTS = 4


def normalize(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: Tensor | float, stack_dims: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, and of the batch the rounded mean, the mean, the biased variance and 1 / sqrt(var + eps), each (*stack, C)."""
    dtype = formulas.computed_in(x)
    dims = batch_dims(x, stack_dims)
    upcast = x if x.dtype == dtype else x.to(dtype)
    rounded = upcast.mean(dims)
    y = minus(upcast, per_channel(rounded, x, stack_dims), overwrite=upcast is not x)
    squares, residual = sums_of_products(y, y, stack_dims)
    number = formulas.count(x, None, stack_dims)
    residual.div_(number)
    var = squares.div_(number).addcmul_(residual, residual, value=-1).clamp_(min=0)
    inv_std = (var + formulas.per_network(eps, var)).rsqrt_()
    scale = inv_std if weight is None else inv_std * weight
    if bias is None:
        shift = residual * -scale
    else:
        shift = torch.addcmul(bias if bias.dtype == dtype else bias.to(dtype), residual, scale, value=-1)
    torch.addcmul(per_channel(shift, x, stack_dims), y, per_channel(scale, x, stack_dims), out=y)
    if upcast is not x:
        y = y.to(x.dtype).contiguous()
    return y, rounded, residual.add_(rounded), var, inv_std


def update_running_statistics(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    momentum: Tensor | float | None,
    stack_dims: int,
) -> None:
    """As `formulas.update_running_statistics`, in fewer operations where the dtypes allow."""
    if momentum is None or running_mean is None or running_var is None or running_mean.dtype != mean.dtype:
        formulas.update_running_statistics(
            x, mean, var, running_mean, running_var, num_batches_tracked, momentum, None, stack_dims
        )
        return
    if num_batches_tracked is not None:
        num_batches_tracked.add_(1)
    number = formulas.count(x, None, stack_dims)
    factor = formulas.per_network(momentum, mean)
    running_mean.lerp_(mean, factor)
    running_var.lerp_(var * (number / (number - 1)), factor)


def backward(
    x: Tensor,
    grad_y: Tensor,
    weight: Tensor | None,
    mean: Tensor,
    inv_std: Tensor,
    stack_dims: int,
    needs_x: bool,
) -> tuple[Tensor | None, Tensor, Tensor]:
    """dL/dx, dL/dweight and dL/dbias; see `formulas.backward`."""
    dims = batch_dims(x, stack_dims)
    same = x.dtype == mean.dtype
    upcast, g = (x, grad_y) if same else (x.to(mean.dtype), grad_y.to(mean.dtype))
    c = minus(upcast, per_channel(mean, x, stack_dims), overwrite=not same)
    residual = c.mean(dims)
    sum_g_c, sum_g = sums_of_products(g, c, stack_dims)
    sum_g_x_hat = sum_g_c.addcmul_(residual, sum_g, value=-1).mul_(inv_std)
    if not needs_x:
        return None, sum_g_x_hat, sum_g
    scale = inv_std if weight is None else inv_std * weight
    minus_scale = scale * (-1 / formulas.count(x, None, stack_dims))
    slope = (minus_scale * inv_std).mul_(sum_g_x_hat)
    shift = minus_scale.mul_(sum_g).addcmul_(slope, residual, value=-1)
    torch.addcmul(per_channel(shift, x, stack_dims), c, per_channel(slope, x, stack_dims), out=c)
    c.addcmul_(g, per_channel(scale, x, stack_dims))
    return c if same else c.to(x.dtype), sum_g_x_hat, sum_g


def minus(x: Tensor, mean: Tensor, *, overwrite: bool) -> Tensor:
    """x - mean, contiguous; into x itself if it is ours to write over."""
    if overwrite:
        return x.sub_(mean)
    return torch.sub(x, mean) if x.is_contiguous() else torch.sub(x, mean).contiguous()


def sums_of_products(a: Tensor, b: Tensor, stack_dims: int) -> tuple[Tensor, Tensor]:
    """sum(a b) and sum(a) over the batch, (*stack, C)."""
    dims = batch_dims(a, stack_dims)
    if a.shape[stack_dims:].numel() <= SMALL:
        return (a * b).sum(dims), a.sum(dims)
    if not a.is_cpu:
        return sum_of_products_in_parts(a, b, stack_dims), a.sum(dims)
    if not stack_dims:
        return sums_of_one_network(a, b)
    networks = zip(a.flatten(0, stack_dims - 1), b.flatten(0, stack_dims - 1), strict=True)
    products, sum_a = zip(*(sums_of_one_network(*network) for network in networks), strict=True)
    shape = a.shape[:stack_dims] + a.shape[stack_dims + 1 : stack_dims + 2]
    return torch.stack(products).view(shape), torch.stack(sum_a).view(shape)


def sums_of_one_network(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return sums(a.contiguous(), b.contiguous(), b.new_zeros(b.shape[1]), b.new_ones(b.shape[1]))


def sum_of_products_in_parts(a: Tensor, b: Tensor, stack_dims: int) -> Tensor:
    """sum(a b) over the batch, (*stack, C), the products a part at a time."""
    dims = batch_dims(a, stack_dims)
    num_rows = a.shape[stack_dims]
    if num_rows < PARTS:
        return (a * b).sum(dims)
    step = -(-num_rows // PARTS)
    result = a.new_zeros(a.shape[:stack_dims] + a.shape[stack_dims + 1 : stack_dims + 2])
    product = torch.empty_like(a.narrow(stack_dims, 0, step))
    for start in range(0, num_rows, step):
        rows = min(step, num_rows - start)
        block = product if rows == step else product.narrow(stack_dims, 0, rows)
        torch.mul(a.narrow(stack_dims, start, rows), b.narrow(stack_dims, start, rows), out=block)
        result += block.sum(dims)
    return result
