"""The formulas of `formulas.py` with few allocations: one x-shaped tensor, the result, and a block that fits the cache.

For eager mode on floating point tensors without a mask; a result is written over step by step, so nothing here can be
differentiated. The results agree with `formulas.py` to rounding.
"""

import torch
from torch import Tensor

from bnlab.batch_norm import formulas
from bnlab.batch_norm.formulas import batch_dims, per_channel, total

__all__ = ["backward", "normalize"]

# The products of two x-shaped tensors are held at most a quarter at a time. Smaller blocks would fit the cache, but each
# costs a start of all threads, and that costs more as soon as another process has one of the cores.
SMALL, PARTS = 65536, 4


def normalize(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: Tensor | float, stack_dims: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, and the rounded mean, the mean and the biased variance of the batch, (*stack, C)."""
    dtype = formulas.computed_in(x)
    upcast = x.to(dtype)
    number = formulas.count(x, None, stack_dims)
    rounded = total(upcast, stack_dims).div_(number)
    # A half type's copy is ours to write over; x itself is not.
    y = torch.sub(upcast, per_channel(rounded, x, stack_dims), out=empty_like(x) if upcast is x else upcast)
    residual = total(y, stack_dims).div_(number)
    var = sum_of_products(y, y, stack_dims).div_(number).addcmul_(residual, residual, value=-1).clamp_(min=0)
    scale = formulas.inverse_std(var, eps)
    if weight is not None:
        scale = scale * weight
    shift = residual * -scale if bias is None else torch.addcmul(bias.to(dtype), residual, scale, value=-1)
    torch.addcmul(per_channel(shift, x, stack_dims), y, per_channel(scale, x, stack_dims), out=y)
    return y.to(x.dtype).contiguous(), rounded, residual.add_(rounded), var


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
    number = formulas.count(x, None, stack_dims)
    upcast, g = x.to(mean.dtype), grad_y.to(mean.dtype)
    c = torch.sub(upcast, per_channel(mean, x, stack_dims), out=empty_like(x) if upcast is x else upcast)
    residual = total(c, stack_dims).div_(number)
    sum_g = total(g, stack_dims)
    sum_g_x_hat = sum_of_products(g, c, stack_dims).addcmul_(residual, sum_g, value=-1).mul_(inv_std)
    if not needs_x:
        return None, sum_g_x_hat, sum_g
    scale = inv_std if weight is None else inv_std * weight
    slope = (scale * inv_std).mul_(sum_g_x_hat).div_(-number)
    shift = (scale * sum_g).div_(-number).addcmul_(slope, residual, value=-1)
    torch.addcmul(per_channel(shift, x, stack_dims), c, per_channel(slope, x, stack_dims), out=c)
    return c.addcmul_(g, per_channel(scale, x, stack_dims)).to(x.dtype), sum_g_x_hat, sum_g


def empty_like(x: Tensor) -> Tensor:
    """Contiguous, as torch's results are, whatever x is."""
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def sum_of_products(a: Tensor, b: Tensor, stack_dims: int) -> Tensor:
    """sum(a b) over the batch, (*stack, C), the products a block at a time."""
    num_rows = a.shape[stack_dims]
    a_network = a.shape[stack_dims:].numel()
    if a_network <= SMALL or num_rows < PARTS:
        return total(a * b, stack_dims)
    step = -(-num_rows // PARTS)
    dims = batch_dims(a, stack_dims)
    result = a.new_zeros(a.shape[:stack_dims] + a.shape[stack_dims + 1 : stack_dims + 2])
    product = torch.empty_like(a.narrow(stack_dims, 0, step))
    for start in range(0, num_rows, step):
        rows = min(step, num_rows - start)
        block = product if rows == step else product.narrow(stack_dims, 0, rows)
        torch.mul(a.narrow(stack_dims, start, rows), b.narrow(stack_dims, start, rows), out=block)
        result += block.sum(dims)
    return result
