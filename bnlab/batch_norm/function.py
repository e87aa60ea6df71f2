"""Batch norm as `torch.autograd.Function`s whose derivatives are written by hand.

Two Functions: `BatchNormFunction` normalizes by the batch's own statistics (training), `FixedStatisticsFunction` by
given ones (evaluation). Each has a subclass with forward-mode derivatives, because TorchDynamo refuses a Function that
defines `jvp`.
"""

from typing import Any

import torch
from torch import Tensor

from bnlab.batch_norm.arithmetic import formulas
from bnlab.batch_norm.arithmetic.formulas import Centered
from bnlab.batch_norm.arithmetic.plain import check_memory, in_memory

__all__ = ["BatchNormFunction", "FixedStatisticsFunction"]


def move_stack_dim(size: int, value: Any, in_dim: int | None) -> Any:
    """Move vmap's dimension to the front, or expand a tensor without one; return numbers and None unchanged."""
    if not isinstance(value, Tensor):
        return value
    return value.expand(size, *value.shape) if in_dim is None else value.movedim(in_dim, 0)


class BatchNormFunction(torch.autograd.Function):
    r"""Normalize each channel by the statistics of the batch; the gradient is derived by hand.

    Forward (Ioffe & Szegedy 2015, arXiv:1502.03167, Algorithm 1):
        x_hat = (x - mean) / sqrt(var + eps),   y = weight * x_hat + bias
    Backward, with g = dL/dy and N values per channel:
        dL/dbias = sum(g),   dL/dweight = sum(g * x_hat)
        dL/dx = weight / (N sqrt(var + eps)) * (N g - sum(g) - x_hat * sum(g * x_hat))

    Args:
        x: (*stack, N, C) or (*stack, N, C, L), at least two values per channel.
        weight, bias: (*stack, C), or None.
        eps: added to the variance, in units of x squared; a number or (*stack).
        mask: (*stack, N) or (*stack, N, L), true where a sample counts, or None. Elsewhere y and dL/dx are 0.
        stack_dims: how many leading dimensions of x are independent networks.
    Returns:
        y, as x; the batch mean and the biased variance, (*stack, C), which carry no gradient.
    """

    generate_vmap_rule = False

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: Tensor | float, mask: Tensor | None, stack_dims: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, _, mean, var, _ = formulas.normalize(x, weight, bias, eps, mask, stack_dims)
        return y, mean, var

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        x, weight, _, eps, mask, ctx.stack_dims = inputs
        _, mean, var = output
        ctx.mark_non_differentiable(mean, var)
        ctx.set_materialize_grads(False)
        ctx.eps = None if isinstance(eps, Tensor) else eps
        ctx.save_for_backward(x, weight, mean, var, eps if isinstance(eps, Tensor) else None, mask)
        ctx.save_for_forward(x, weight, mean, var, eps if isinstance(eps, Tensor) else None, mask)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_y is None:
            return (None,) * 6
        grad_y = in_memory(grad_y)
        x, weight, mask, batch, inv_std = BatchNormFunction.recall(ctx)
        grad_x, grad_weight, grad_bias = formulas.backward(grad_y, batch, inv_std, weight, mask, ctx.stack_dims)
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        return (
            grad_x.to(x.dtype) if needs_x else None,
            grad_weight.to(weight.dtype) if weight is not None and needs_weight else None,
            grad_bias if needs_bias else None,
            None,
            None,
            None,
        )

    @staticmethod
    def recall(ctx: Any) -> tuple[Tensor, Tensor | None, Tensor | None, Centered, Tensor]:
        """Return the statistics: computed from x if this derivative will be differentiated, else as saved."""
        x, weight, mean, var, eps, mask = ctx.saved_tensors
        eps = ctx.eps if eps is None else eps
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            _, var, batch = formulas.batch_statistics(x, mask, ctx.stack_dims)
        else:
            batch = formulas.less_mean(x, mean, mask, ctx.stack_dims)
        return x, weight, mask, batch, formulas.inverse_std(var, eps)

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
        x, weight, mask, batch, inv_std = BatchNormFunction.recall(ctx)
        c, residual = batch.c, batch.residual
        y_t = torch.zeros_like(c)
        if x_t is not None:
            y_t = y_t + formulas.backward(x_t, batch, inv_std, weight, mask, ctx.stack_dims)[0]
        if weight_t is not None:
            y_t = y_t + formulas.affine(c, residual, inv_std * weight_t, None, mask, ctx.stack_dims)
        if bias_t is not None:
            y_t = y_t + formulas.per_channel(bias_t, c, ctx.stack_dims)
        return formulas.masked(y_t, mask, ctx.stack_dims).to(x.dtype), None, None


class FixedStatisticsFunction(torch.autograd.Function):
    r"""Normalize each channel by a given mean and 1 / sqrt(var + eps), both constants; the gradient is derived by hand.

    Forward:
        x_hat = (x - mean) * inv_std,   y = weight * x_hat + bias
    Backward, with g = dL/dy:
        dL/dx = g * weight * inv_std,   dL/dweight = sum(g * x_hat),   dL/dbias = sum(g)

    Args:
        x: (*stack, N, C) or (*stack, N, C, L).
        weight, bias: (*stack, C), or None.
        mean, inv_std: (*stack, C), in the dtype of the computation. They are saved for backward: pass copies if their
            sources may be overwritten.
        mask: (*stack, N) or (*stack, N, L), true where a sample counts, or None. Elsewhere y and dL/dx are 0.
        stack_dims: how many leading dimensions of x are independent networks.
    Returns:
        y, as x.
    """

    generate_vmap_rule = False

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        inv_std: Tensor,
        mask: Tensor | None,
        stack_dims: int,
    ) -> Tensor:
        c = formulas.centered(x, mean, mask, stack_dims)
        scale = inv_std if weight is None else inv_std * weight
        return formulas.affine(c, None, scale, bias, mask, stack_dims).to(x.dtype).contiguous()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, mean, inv_std, mask, ctx.stack_dims = inputs
        ctx.save_for_backward(x, weight, mean, inv_std, mask)
        ctx.save_for_forward(x, weight, mean, inv_std, mask)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inv_std, mask = ctx.saved_tensors
        if not torch.compiler.is_compiling():
            check_memory(x, grad_y, weight)
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        g = formulas.masked(in_memory(grad_y).to(mean.dtype), mask, ctx.stack_dims)
        grad_x = grad_weight = grad_bias = None
        if needs_x:
            scale = inv_std if weight is None else inv_std * weight
            grad_x = (g * formulas.per_channel(scale, g, ctx.stack_dims)).to(x.dtype)
        if needs_weight:
            c = formulas.centered(x, mean, mask, ctx.stack_dims)
            grad_weight = (formulas.total(g * c, ctx.stack_dims) * inv_std).to(weight.dtype)
        if needs_bias:
            grad_bias = formulas.total(g, ctx.stack_dims)
        return grad_x, grad_weight, grad_bias, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, Any]:
        *tensors, stack_dims = inputs
        moved = [
            move_stack_dim(info.batch_size, value, in_dim) for value, in_dim in zip(tensors, in_dims[:-1], strict=True)
        ]
        return FixedStatisticsFunction.apply(*moved, stack_dims + 1), 0


class FixedStatisticsFunctionWithTangent(FixedStatisticsFunction):
    """`FixedStatisticsFunction` with forward-mode derivatives: y_t = weight inv_std x_t + weight_t x_hat + bias_t."""

    @staticmethod
    def jvp(ctx: Any, x_t: Tensor | None, weight_t: Tensor | None, bias_t: Tensor | None, *_: Any) -> Tensor:
        x, weight, mean, inv_std, mask = ctx.saved_tensors
        c = formulas.centered(x, mean, mask, ctx.stack_dims)
        y_t = torch.zeros_like(c)
        if x_t is not None:
            scale = inv_std if weight is None else inv_std * weight
            y_t = y_t + x_t * formulas.per_channel(scale, c, ctx.stack_dims)
        if weight_t is not None:
            y_t = y_t + formulas.affine(c, None, inv_std * weight_t, None, mask, ctx.stack_dims)
        if bias_t is not None:
            y_t = y_t + formulas.per_channel(bias_t, c, ctx.stack_dims)
        return formulas.masked(y_t, mask, ctx.stack_dims).to(x.dtype)
