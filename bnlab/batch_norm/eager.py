"""Batch norm in eager mode, where nothing traces or transforms it: by the CPU kernel, or with few allocations.

The Functions of `function.py` are for everyone else. This one is written with a `ctx` in forward, because the call of a
Function without costs as much as the whole of a small batch norm.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import Buffer, Parameter

from bnlab.batch_norm import formulas, in_place, kernel
from bnlab.batch_norm.formulas import Statistics

__all__ = ["EagerBatchNormFunction", "is_eager"]

PLAIN = {Tensor, Parameter, Buffer}
KERNEL_DTYPES = {torch.float32, torch.float64}

transforms_active = torch._C._are_functorch_transforms_active
dispatch_modes = torch._C._len_torch_dispatch_stack
tracing_state = torch._C._get_tracing_state
is_batched = torch._C._functorch.is_legacy_batchedtensor  # a batch of gradients: `is_grads_batched=True`


def is_eager() -> bool:
    """Whether operations run right away on real tensors: no compiler, no functorch, no forward mode, no tracing."""
    return not (
        torch.compiler.is_compiling()
        or transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
        or dispatch_modes()
        or tracing_state() is not None
    )


def kernel_takes(x: Tensor, *others: Tensor | None) -> bool:
    """Whether the kernel can read these: plain, on the CPU, all contiguous (x is made so) and of x's dtype."""
    dtype = x.dtype
    if dtype not in KERNEL_DTYPES or not x.is_cpu or type(x) not in PLAIN or x.numel() == 0:
        return False
    for tensor in others:
        if tensor is not None and (
            tensor.dtype is not dtype or not tensor.is_contiguous() or type(tensor) not in PLAIN or not tensor.is_cpu
        ):
            return False
    return kernel.is_available()


class EagerBatchNormFunction(torch.autograd.Function):
    """`BatchNormFunction` in eager mode, which updates the running statistics too. Its arguments are `batch_norm`'s."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: Tensor | float,
        eps: Tensor | float,
        mask: Tensor | None,
        stack_dims: int,
    ) -> Tensor:
        ctx.eps, ctx.stack_dims = eps, stack_dims
        ctx.bias_dtype = x.dtype if bias is None else bias.dtype
        if mask is None and kernel_takes(x, weight, bias, running_mean, running_var):
            x = x.contiguous()
            y, statistics = kernel.forward(
                x,
                weight,
                bias,
                running_mean,
                running_var,
                like(momentum, x),
                like(eps, x),
                stack_dims,
            )
            ctx.by_kernel = True
            ctx.save_for_backward(x, weight, statistics)
            return y
        if mask is None and x.is_floating_point() and is_eager():
            y, rounded, mean, var = in_place.normalize(x, weight, bias, eps, stack_dims)
        else:
            found, c = formulas.batch_statistics(x, mask, stack_dims)
            scale = formulas.inverse_std(found.var, eps)
            if weight is not None:
                scale = scale * weight
            y = formulas.affine(c, found.residual, scale, bias, mask, stack_dims).to(x.dtype)
            rounded, mean, var = found.mean, found.mean + found.residual, found.var
        formulas.update_running_statistics(x, mean, var, running_mean, running_var, momentum, mask, stack_dims)
        ctx.by_kernel = False
        ctx.save_for_backward(x, weight, torch.stack((rounded, formulas.inverse_std(var, eps))), mask)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        stack_dims = ctx.stack_dims
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        x, weight, statistics, *mask = ctx.saved_tensors
        eager = is_eager() and type(grad_y) in PLAIN and not is_batched(grad_y)
        if eager and ctx.by_kernel and not torch.is_grad_enabled():
            grad_x = torch.empty_like(x) if needs_x else None
            grad_weight = torch.empty_like(weight) if needs_weight else None
            grad_bias = statistics.new_empty(statistics.shape[1:]) if needs_bias else None
            kernel.backward(x, grad_y.contiguous(), weight, statistics, grad_x, grad_weight, grad_bias, stack_dims)
            return grad_x, grad_weight, grad_bias, None, None, None, None, None, None
        mask = mask[0] if mask else None
        if torch.is_grad_enabled():  # a derivative of this derivative is wanted: of the statistics too
            found, c = formulas.batch_statistics(x, mask, stack_dims)
            inv_std = formulas.inverse_std(found.var, ctx.eps)
            grads = formulas.backward(grad_y, c, found, inv_std, weight, mask, stack_dims)
        elif eager and mask is None:
            grads = in_place.backward(x, grad_y, weight, *statistics, stack_dims, needs_x)
        else:
            mean, inv_std = statistics
            c = formulas.centered(x, mean, mask, stack_dims)
            number = formulas.count(x, mask, stack_dims)
            found = Statistics(mean, formulas.total(c, stack_dims) / number, mean, number)
            grads = formulas.backward(grad_y, c, found, inv_std, weight, mask, stack_dims)
        grad_x, grad_weight, grad_bias = grads
        return (
            grad_x.to(x.dtype) if needs_x else None,
            grad_weight.to(weight.dtype) if needs_weight else None,
            grad_bias.to(ctx.bias_dtype) if needs_bias else None,
            *(None,) * 6,
        )


def like(value: Tensor | float, x: Tensor) -> Tensor | float:
    """A number a network in x's dtype, contiguous; a number stays one."""
    if isinstance(value, Tensor):
        return value.to(x.dtype).contiguous() if value.dim() else float(value)
    return value
