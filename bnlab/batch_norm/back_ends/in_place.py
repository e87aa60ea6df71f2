"""The back end in plain torch, for every device and dtype: the formulas with few allocations and few operations.

Each operation costs a small batch microseconds. Results are overwritten step by step, so nothing here can be
differentiated. They agree with `formulas.py` up to rounding, and exactly where there is a mask.
"""

import torch
from torch import Tensor

from bnlab.batch_norm.arithmetic import formulas, running
from bnlab.batch_norm.arithmetic.arguments import Settings
from bnlab.batch_norm.arithmetic.back_end import Found, Gradients, Needs, Saved, needed
from bnlab.batch_norm.arithmetic.formulas import batch_dims, per_channel
from bnlab.batch_norm.arithmetic.plain import check_memory, in_memory
from bnlab.batch_norm.back_ends.sums_of_products import sums_of_products
from bnlab.internals.torch_internals import is_batched

__all__ = ["backward", "forward"]


def forward(x: Tensor, weight: Tensor | None, bias: Tensor | None, settings: Settings) -> tuple[Tensor, Saved, Found]:
    """y; what backward needs; and the statistics of the batch.

    For backward: x, weight, the rounded mean, 1 / sqrt(var + eps), the mask, and what the rounding took from the mean,
    which saves a pass and is kept where torch's layer would keep the running statistics.
    """
    eps, mask, stack_dims = settings.eps, settings.mask, settings.stack_dims
    if mask is not None:
        y, rounded, mean, var, inv_std = formulas.normalize(x, weight, bias, eps, mask, stack_dims)
        residual = None
    else:
        y, rounded, residual, var, inv_std = normalize(x, weight, bias, eps, stack_dims)
        mean = rounded + residual
    kept = residual if settings.running_mean is not None else None
    return y, (x, weight, rounded, inv_std, mask, kept), (mean, running.unbiased(var, x, mask, stack_dims))


def normalize(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: Tensor | float, stack_dims: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `formulas.normalize`, but with what the rounding took from the mean, in place of the mean."""
    dtype = formulas.compute_dtype(x)
    upcast = x if x.dtype == dtype else x.to(dtype)
    rounded = upcast.mean(batch_dims(x, stack_dims))
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
    return y, rounded, residual, var, inv_std


def backward(saved: Saved, grad_y: Tensor, stack_dims: int, needs: Needs) -> Gradients | None:
    """See `formulas.backward`."""
    if is_batched(grad_y):
        return None
    x, weight, mean, inv_std, mask, residual = saved
    assert x is not None
    assert mean is not None
    assert inv_std is not None
    needs_x, needs_weight, needs_bias = needs
    check_memory(x, grad_y, weight)
    grad_y = in_memory(grad_y)
    if mask is not None:
        batch = formulas.subtract_mean(x, mean, mask, stack_dims)
        return needed(formulas.backward(grad_y, batch, inv_std, weight, mask, stack_dims), needs)
    same = x.dtype == mean.dtype
    upcast, g = (x, grad_y) if same else (x.to(mean.dtype), grad_y.to(mean.dtype))
    c = minus(upcast, per_channel(mean, x, stack_dims), overwrite=not same)
    if residual is None:
        residual = c.mean(batch_dims(x, stack_dims))
    sum_g_c, sum_g = sums_of_products(g, c, stack_dims)
    sum_g_x_hat = sum_g_c.addcmul_(residual, sum_g, value=-1).mul_(inv_std)
    gradients = sum_g_x_hat if needs_weight else None, sum_g if needs_bias else None
    if not needs_x:
        return None, *gradients
    scale = inv_std if weight is None else inv_std * weight
    minus_scale = scale * (-1 / formulas.count(x, None, stack_dims))
    slope = (minus_scale * inv_std).mul_(sum_g_x_hat)
    shift = minus_scale.mul_(sum_g).addcmul_(slope, residual, value=-1)
    torch.addcmul(per_channel(shift, x, stack_dims), c, per_channel(slope, x, stack_dims), out=c)
    c.addcmul_(g, per_channel(scale, x, stack_dims))
    return c if same else c.to(x.dtype), *gradients


def minus(x: Tensor, mean: Tensor, *, overwrite: bool) -> Tensor:
    """x - mean, contiguous; into x itself if that may be overwritten."""
    return x.sub_(mean) if overwrite else torch.sub(x, mean).contiguous()
