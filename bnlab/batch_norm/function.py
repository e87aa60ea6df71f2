"""Batch norm as one `torch.autograd.Function` whose derivatives are written by hand, for compilers and transforms.

It has a subclass with forward-mode derivatives, because TorchDynamo refuses a Function that defines `jvp`.
"""

from typing import Any

import torch
from torch import Tensor

from bnlab.batch_norm.arithmetic import formulas
from bnlab.batch_norm.arithmetic.formulas import Centered
from bnlab.batch_norm.arithmetic.plain import check_memory, in_memory

__all__ = ["BatchNormFunction", "BatchNormFunctionWithTangent"]


class BatchNormFunction(torch.autograd.Function):
    r"""Normalize each channel by the statistics of the batch, or by given constants; the gradient is derived by hand.

    Forward (Ioffe & Szegedy 2015, arXiv:1502.03167, Algorithm 1):
        x_hat = (x - mean) / sqrt(var + eps),   y = weight * x_hat + bias
    Backward, with g = dL/dy and N values per channel:
        dL/dbias = sum(g),   dL/dweight = sum(g * x_hat)
        dL/dx = weight / (N sqrt(var + eps)) * (N g - sum(g) - x_hat * sum(g * x_hat))   by the batch's statistics
        dL/dx = weight / sqrt(var + eps) * g                                             by constants

    Args:
        x: (*stack, N, C) or (*stack, N, C, L); for the batch's statistics, at least two values per channel.
        weight, bias: (*stack, C), or None.
        mean, var: (*stack, C), by which to normalize in evaluation; None for those of the batch, the variance biased.
        eps: added to the variance, in units of x squared; a number or (*stack).
        mask: (*stack, N) or (*stack, N, L), true where a sample counts, or None. Elsewhere y and dL/dx are 0.
        stack_dims: how many leading dimensions of x are independent networks.
    Returns:
        y, as x; and the mean and the variance by which it was normalized, (*stack, C), which carry no gradient.
    """

    generate_vmap_rule = False

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor | None,
        var: Tensor | None,
        eps: Tensor | float,
        mask: Tensor | None,
        stack_dims: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        if mean is None or var is None:
            y, _, mean, var, _ = formulas.normalize(x, weight, bias, eps, mask, stack_dims)
            return y, mean, var
        dtype = formulas.compute_dtype(x)
        # Backward reads copies, because the buffers may change before it runs.
        mean, var = mean.detach().to(dtype, copy=True), var.detach().to(dtype, copy=True)
        c = formulas.centered(x, mean, mask, stack_dims)
        scale = scale_of(formulas.inverse_std(var, eps), weight)
        return formulas.affine(c, None, scale, bias, mask, stack_dims).to(x.dtype).contiguous(), mean, var

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        x, weight, _, given_mean, _, eps, mask, ctx.stack_dims = inputs
        _, mean, var = output
        ctx.mark_non_differentiable(mean, var)
        ctx.set_materialize_grads(False)
        ctx.by_batch = given_mean is None
        ctx.eps = None if isinstance(eps, Tensor) else eps
        saved = x, weight, mean, var, eps if isinstance(eps, Tensor) else None, mask
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_y is None:
            return (None,) * 8
        x, weight, mask, mean, inv_std, batch = recall(ctx, grad_y)
        grad_y = in_memory(grad_y)
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_x = grad_weight = grad_bias = None
        if batch is not None:
            grad_x, grad_weight, grad_bias = formulas.backward(grad_y, batch, inv_std, weight, mask, ctx.stack_dims)
        else:
            g = formulas.masked(grad_y.to(mean.dtype), mask, ctx.stack_dims)
            if needs_x:
                grad_x = g * formulas.per_channel(scale_of(inv_std, weight), g, ctx.stack_dims)
            if needs_weight:
                c = formulas.centered(x, mean, mask, ctx.stack_dims)
                grad_weight = formulas.total(g * c, ctx.stack_dims) * inv_std
            if needs_bias:
                grad_bias = formulas.total(g, ctx.stack_dims)
        return (
            grad_x.to(x.dtype) if grad_x is not None and needs_x else None,
            grad_weight.to(weight.dtype) if grad_weight is not None and weight is not None and needs_weight else None,
            grad_bias if needs_bias else None,
            *(None,) * 5,
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, Any]:
        *tensors, stack_dims = inputs
        moved = [
            move_stack_dim(info.batch_size, value, in_dim) for value, in_dim in zip(tensors, in_dims[:-1], strict=True)
        ]
        return BatchNormFunction.apply(*moved, stack_dims + 1), (0, 0, 0)


class BatchNormFunctionWithTangent(BatchNormFunction):
    """`BatchNormFunction` with forward-mode derivatives: y_t = weight x_hat_t + weight_t x_hat + bias_t."""

    @staticmethod
    def jvp(ctx: Any, x_t: Tensor | None, weight_t: Tensor | None, bias_t: Tensor | None, *_: Any) -> tuple[Any, ...]:
        x, weight, mask, mean, inv_std, batch = recall(ctx)
        residual = None if batch is None else batch.residual
        c = formulas.centered(x, mean, mask, ctx.stack_dims) if batch is None else batch.c
        y_t = torch.zeros_like(c)
        if x_t is not None and batch is not None:  # the derivative with respect to x is symmetric
            y_t = y_t + formulas.backward(x_t, batch, inv_std, weight, mask, ctx.stack_dims)[0]
        elif x_t is not None:
            y_t = y_t + x_t * formulas.per_channel(scale_of(inv_std, weight), c, ctx.stack_dims)
        if weight_t is not None:
            y_t = y_t + formulas.affine(c, residual, inv_std * weight_t, None, mask, ctx.stack_dims)
        if bias_t is not None:
            y_t = y_t + formulas.per_channel(bias_t, c, ctx.stack_dims)
        return formulas.masked(y_t, mask, ctx.stack_dims).to(x.dtype), None, None


def scale_of(inv_std: Tensor, weight: Tensor | None) -> Tensor:
    return inv_std if weight is None else inv_std * weight


def recall(ctx: Any, *others: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor, Tensor, Centered | None]:
    """Return x, weight, mask, mean and 1 / sqrt(var + eps); and the batch less its mean, None where it was constant.

    The batch's statistics are computed from x if this derivative will be differentiated.

    Args:
        others: tensors whose memory must be there too.
    """
    x, weight, mean, var, eps, mask = ctx.saved_tensors
    is_compiling = torch.compiler.is_compiling()
    if not is_compiling:
        check_memory(x, weight, *others)
    batch = None
    if ctx.by_batch and torch.is_grad_enabled() and not is_compiling:
        _, var, batch = formulas.batch_statistics(x, mask, ctx.stack_dims)
    elif ctx.by_batch:
        batch = formulas.subtract_mean(x, mean, mask, ctx.stack_dims)
    return x, weight, mask, mean, formulas.inverse_std(var, ctx.eps if eps is None else eps), batch


def move_stack_dim(size: int, value: Any, in_dim: int | None) -> Any:
    """Move vmap's dimension to the front, or expand a tensor without one; return numbers and None unchanged."""
    if not isinstance(value, Tensor):
        return value
    return value.expand(size, *value.shape) if in_dim is None else value.movedim(in_dim, 0)
