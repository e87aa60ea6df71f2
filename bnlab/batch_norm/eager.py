"""Batch norm in eager mode, without tracing or transforms: one Function over the back ends.

The back ends are the CPU kernel (`kernel_by_tensors.py`), torch's own batch norm for small batches (`native.py`) and
plain torch with few allocations (`in_place.py`). All other cases use the Function of `function.py`. This one takes
`ctx` in forward, because the `setup_context` style costs as much per call as a small batch norm. For the same reason
it is made for each back end, all arguments that are not tensors are passed in one tuple, and a second derivative
recomputes the statistics from x instead of keeping them as outputs.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bnlab.batch_norm.arithmetic import formulas, running
from bnlab.batch_norm.arithmetic.arguments import Settings
from bnlab.batch_norm.arithmetic.back_end import BackEnd, needed
from bnlab.batch_norm.arithmetic.plain import check_memory, in_memory
from bnlab.internals.torch_internals import fast_apply, is_eager

__all__ = ["apply_by"]

is_grad_enabled = torch.is_grad_enabled


def apply_by(back_end: BackEnd) -> Callable[..., Any]:
    """Return what applies the Function to x, weight, bias and the settings."""

    class EagerBatchNormFunction(torch.autograd.Function):
        """`BatchNormFunction` by a back end, which also updates the running statistics or returns the batch's."""

        @staticmethod
        def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, settings: Settings) -> Any:
            y, saved, found = back_end.forward(x, weight, bias, settings)
            ctx.settings = settings
            ctx.save_for_backward(*saved)
            if found is None:
                return y
            if settings.returns_statistics:
                ctx.mark_non_differentiable(*found)
                return y, *found
            running.move(*found, settings, by_lerp=settings.mask is None)
            return y

        @staticmethod
        def backward(ctx: Any, grad_y: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
            saved = ctx.saved_tensors
            settings, needs = ctx.settings, ctx.needs_input_grad[:3]
            if not is_grad_enabled() and is_eager():
                gradients = back_end.backward(saved, grad_y, settings.stack_dims, needs)
                if gradients is not None:
                    return *gradients, None
            # These operations can be differentiated again, batched and traced, and so can the statistics.
            x, weight = saved[:2]
            check_memory(x, grad_y, weight)
            var, batch = formulas.batch_statistics(x, settings.mask, settings.stack_dims)[1:]
            inv_std = formulas.inverse_std(var, settings.eps)
            found = formulas.backward(in_memory(grad_y), batch, inv_std, weight, settings.mask, settings.stack_dims)
            return *needed(found, needs), None

    return fast_apply(EagerBatchNormFunction)
