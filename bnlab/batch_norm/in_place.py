"""The formulas of `formulas.py` with few allocations and few operations: each costs a small batch microseconds.

For eager mode on floating point tensors without a mask; a result is written over step by step, so nothing here can be
differentiated. The results agree with `formulas.py` to rounding.

On the CPU torch's own batch norm takes the sums, of one network at a time and of x less its rounded mean: it reads x in
fewer passes than any other operations, and is exact as long as the mean is not much larger than the standard deviation
and, in rows of channels, which it adds up one after the other in fp32, as long as there are not many.
"""

import ctypes
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from bnlab.batch_norm import formulas
from bnlab.batch_norm.formulas import batch_dims, per_channel

__all__ = ["backward", "normalize", "update_running_statistics"]

# The products of two x-shaped tensors are held at most a quarter at a time. Smaller blocks would fit the cache, but
# each costs a start of all threads, and that costs more as soon as another process has one of the cores.
SMALL, PARTS = 65536, 4

# The error of torch's sums over rows grows with their number: 1.3e-6 at 8192, 2e-7 here.
FEW_ROWS = 1024

native_out: Callable[..., object] = torch.native_batch_norm
native_backward = torch.ops.aten.native_batch_norm_backward.default


def normalize(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: Tensor | float, stack_dims: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, and of the batch, each (*stack, C): the rounded mean, the mean, the unbiased variance, 1 / sqrt(var + eps)."""
    dtype = formulas.computed_in(x)
    dims = batch_dims(x, stack_dims)
    upcast = x if x.dtype == dtype else x.to(dtype)
    rounded = upcast.sum(dims).mul_(1 / formulas.count(x, None, stack_dims))
    y = minus(upcast, per_channel(rounded, x, stack_dims), overwrite=upcast is not x)
    if native_is_exact(x, stack_dims):
        y, residual, var, inv_std = normalize_centered(y, rounded, weight, bias, eps, stack_dims)
        return y, rounded, residual.add_(rounded), var, inv_std
    residual = y.mean(dims)
    var = sum_of_products(y, y, dims, stack_dims).div_(formulas.count(x, None, stack_dims))
    var = var.addcmul_(residual, residual, value=-1).clamp_(min=0)
    inv_std = (var + formulas.per_network(eps, var)).rsqrt_()
    scale = inv_std if weight is None else inv_std * weight
    if bias is None:
        shift = residual * -scale
    else:
        shift = torch.addcmul(bias if bias.dtype == dtype else bias.to(dtype), residual, scale, value=-1)
    torch.addcmul(per_channel(shift, x, stack_dims), y, per_channel(scale, x, stack_dims), out=y)
    if upcast is not x:
        y = y.to(x.dtype).contiguous()
    number = formulas.count(x, None, stack_dims)
    return y, rounded, residual.add_(rounded), var.mul_(number / (number - 1)), inv_std


def native_is_exact(x: Tensor, stack_dims: int) -> bool:
    """Whether the sums can be torch's batch norm's."""
    return (
        x.is_cpu
        and (x.dim() > stack_dims + 2 or x.shape[stack_dims] <= FEW_ROWS)
        and formulas.computed_in(x) == x.dtype
    )


def normalize_centered(
    c: Tensor, like: Tensor, weight: Tensor | None, bias: Tensor | None, eps: Tensor | float, stack_dims: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, and of c the mean, the unbiased variance and 1 / sqrt(var + eps), as `like`, by torch's batch norm."""
    # With momentum 1 the running variance becomes the batch's own.
    var, unused = torch.zeros_like(like), torch.zeros_like(like)
    if not stack_dims:
        (number,) = numbers(eps, c.dtype, 1)
        y, mean, inv_std = torch.native_batch_norm(c, weight, bias, unused, var, True, 1.0, number)
        return y, mean, var, inv_std
    y, mean, inv_std = torch.empty_like(c), torch.empty_like(var), torch.empty_like(var)
    for number, (c_k, weight_k, bias_k, unused_k, var_k, *out) in zip(
        numbers(eps, c.dtype, c.shape[:stack_dims].numel()),
        networks(stack_dims, c, weight, bias, unused, var, y, mean, inv_std),
        strict=True,
    ):
        native_out(c_k, weight_k, bias_k, unused_k, var_k, True, 1.0, number, out=out)
    return y, mean, var, inv_std


def numbers(value: Tensor | float, dtype: torch.dtype, num_networks: int) -> list[float]:
    """One number a network, rounded to the dtype: a stack equals single networks."""
    if isinstance(value, Tensor):
        return value.to(dtype).flatten().expand(num_networks).tolist()
    return [ctypes.c_float(value).value if dtype == torch.float32 else value] * num_networks


def networks(stack_dims: int, *tensors: Tensor | None) -> Iterable[tuple[Tensor | None, ...]]:
    """Of each network its part of the tensors, which are stacks; views."""
    num_networks = next(tensor.shape[:stack_dims].numel() for tensor in tensors if tensor is not None)
    return zip(
        *(
            [None] * num_networks if tensor is None else tensor.flatten(0, stack_dims - 1).unbind()
            for tensor in tensors
        ),
        strict=True,
    )


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
    """Take the batch's mean and unbiased variance into the running ones, in few operations where the dtypes allow."""
    if momentum is None or running_mean is None or running_var is None or running_mean.dtype != mean.dtype:
        formulas.move(mean, var, running_mean, running_var, num_batches_tracked, momentum)
        return
    if num_batches_tracked is not None:
        num_batches_tracked.add_(1)
    factor = formulas.per_network(momentum, mean)
    running_mean.lerp_(mean, factor)
    running_var.lerp_(var, factor)


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
    minus_share = -1 / formulas.count(x, None, stack_dims)
    residual = c.sum(dims).mul_(-minus_share)
    if native_is_exact(x, stack_dims):
        sum_g_x_hat, sum_g = sums_of_gradient(g, c, residual, inv_std, stack_dims)
    else:
        sum_g = g.sum(dims)
        sum_g_x_hat = sum_of_products(g, c, dims, stack_dims).addcmul_(residual, sum_g, value=-1).mul_(inv_std)
    if not needs_x:
        return None, sum_g_x_hat, sum_g
    scale = inv_std if weight is None else inv_std * weight
    minus_scale = scale * minus_share
    slope = (minus_scale * inv_std).mul_(sum_g_x_hat)
    shift = minus_scale.mul_(sum_g).addcmul_(slope, residual, value=-1)
    torch.addcmul(per_channel(shift, x, stack_dims), c, per_channel(slope, x, stack_dims), out=c)
    c.addcmul_(g, per_channel(scale, x, stack_dims))
    return c if same else c.to(x.dtype), sum_g_x_hat, sum_g


def sums_of_gradient(g: Tensor, c: Tensor, residual: Tensor, inv_std: Tensor, stack_dims: int) -> tuple[Tensor, Tensor]:
    """sum(g x_hat) and sum(g), (*stack, C): the gradients that torch's batch norm has for weight and bias."""
    settings = True, 0.0, [False, True, True]
    if not stack_dims:
        _, sum_g_x_hat, sum_g = native_backward(g, c, None, None, None, residual, inv_std, *settings)
        return sum_g_x_hat, sum_g
    found = [
        native_backward(g_k, c_k, None, None, None, residual_k, inv_std_k, *settings)[1:]
        for g_k, c_k, residual_k, inv_std_k in networks(stack_dims, g, c, residual, inv_std)
    ]
    sums = (torch.stack(sums).reshape(residual.shape) for sums in zip(*found, strict=True))
    return next(sums), next(sums)


def minus(x: Tensor, mean: Tensor, *, overwrite: bool) -> Tensor:
    """x - mean, contiguous; into x itself if it is ours to write over."""
    if overwrite:
        return x.sub_(mean)
    return torch.sub(x, mean) if x.is_contiguous() else torch.sub(x, mean).contiguous()


def sum_of_products(a: Tensor, b: Tensor, dims: list[int], stack_dims: int) -> Tensor:
    """sum(a b) over the batch, (*stack, C), the products a part at a time."""
    num_rows = a.shape[stack_dims]
    if a.shape[stack_dims:].numel() <= SMALL or num_rows < PARTS:
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
