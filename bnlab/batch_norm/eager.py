"""Batch norm in eager mode, where nothing traces or transforms it: one Function over the back ends.

The CPU kernel is one (`kernel_by_tensors.py`), plain torch with few allocations another (`in_place.py`). The Functions
of `function.py` are for everyone else. This one is written with a `ctx` in forward, because the call of a Function
without costs as much as the whole of a small batch norm; for the same reason what is no tensor travels in one tuple,
and a derivative of a derivative takes the statistics from x once more instead of keeping them as outputs.
"""

from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from bnlab.batch_norm import formulas
from bnlab.batch_norm.arguments import Settings
from bnlab.batch_norm.plain import check_memory, in_memory
from bnlab.internals.torch_internals import apply_of, is_batched, is_eager

__all__ = ["BackEnd", "EagerBatchNormFunction", "apply_eagerly"]

Gradients: TypeAlias = tuple[Tensor | None, Tensor | None, Tensor | None]

is_grad_enabled = torch.is_grad_enabled


class BackEnd(Protocol):
    """What computes batch norm in eager mode: a module with these two functions."""

    def forward(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, settings: Settings
    ) -> tuple[Tensor, Tensor]:
        """y, and (2, *stack, C) in any shape: the rounded means and 1 / sqrt(var + eps), in the dtype computed in.

        The running statistics and the counter in `settings` are updated.
        """

    def backward(
        self,
        x: Tensor,
        grad_y: Tensor,
        weight: Tensor | None,
        statistics: Tensor,
        stack_dims: int,
        needs_x: bool,
        needs_weight: bool,
        needs_bias: bool,
    ) -> Gradients | None:
        """dL/dx, dL/dweight and dL/dbias without a mask, those that are needed; None if it cannot read all this."""


class EagerBatchNormFunction(torch.autograd.Function):
    """`BatchNormFunction` by a back end, which updates the running statistics too."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, how: tuple[Settings, BackEnd]
    ) -> Tensor:
        settings, back_end = ctx.how = how
        y, statistics = back_end.forward(x, weight, bias, settings)
        ctx.save_for_backward(x, weight, settings.mask, statistics)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mask, statistics = ctx.saved_tensors
        settings, back_end = ctx.how
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        if mask is None and not is_grad_enabled() and is_eager() and not is_batched(grad_y):
            gradients = back_end.backward(
                x, grad_y, weight, statistics, settings.stack_dims, needs_x, needs_weight, needs_bias
            )
            if gradients is not None:
                grad_x, grad_weight, grad_bias = gradients
                return grad_x, grad_weight, grad_bias, None
        check_memory(x, grad_y, weight)
        grad_x, grad_weight, grad_bias = differentiable_backward(
            in_memory(grad_y), x, weight, mask, statistics, settings
        )
        return (
            grad_x if needs_x else None,
            grad_weight if needs_weight else None,
            grad_bias if needs_bias else None,
            None,
        )


apply_eagerly = apply_of(EagerBatchNormFunction)


def differentiable_backward(
    grad_y: Tensor, x: Tensor, weight: Tensor | None, mask: Tensor | None, statistics: Tensor, settings: Settings
) -> Gradients:
    """Backward by operations that can be differentiated again, batched and traced; then the statistics are, too."""
    stack_dims = settings.stack_dims
    if is_grad_enabled():
        _, var, batch = formulas.batch_statistics(x, mask, stack_dims)
        inv_std = formulas.inverse_std(var, settings.eps)
    else:
        mean, inv_std = statistics.view(2, *x.shape[:stack_dims], x.shape[stack_dims + 1]).unbind()
        batch = formulas.less_mean(x, mean, mask, stack_dims)
    return formulas.backward(grad_y, batch, inv_std, weight, mask, stack_dims)
