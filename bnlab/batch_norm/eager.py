"""Batch norm in eager mode, where nothing traces or transforms it: by the CPU kernel, by what torch has for its own of
x less its mean (`centered.py`), or, for half types, masks and other devices, with few allocations (`in_place.py`).

The Functions of `function.py` are for everyone else. These are written with a `ctx` in forward, because the call of a
Function without costs as much as the whole of a small batch norm; for the same reason what is no tensor travels in one
tuple, and a derivative of a derivative takes the statistics from x once more instead of keeping them as outputs.
"""

from typing import Any, TypeAlias

import torch
from torch import Tensor

from bnlab.batch_norm import centered, formulas, in_place, kernel
from bnlab.batch_norm.arguments import Settings
from bnlab.batch_norm.formulas import Statistics
from bnlab.batch_norm.plain import PLAIN, are_in_memory, check_memory, in_memory
from bnlab.torch_internals import apply_of, hooks_on_saved, is_batched, is_eager, keeps_graph

__all__ = [
    "CenteredBatchNormFunction",
    "InPlaceBatchNormFunction",
    "KernelBatchNormFunction",
    "apply_centered",
    "apply_checked",
    "apply_in_place",
    "apply_kernel",
    "are_plain",
    "kernel_takes",
    "may_be_plain",
]

Gradients: TypeAlias = tuple[Tensor | None, Tensor | None, Tensor | None, None]

KERNEL_DTYPES = {torch.float32, torch.float64}
PLAIN_OR_NONE = {*PLAIN, type(None)}

is_grad_enabled = torch.is_grad_enabled


def kernel_takes(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: Tensor | float,
    stack_dims: int,
) -> bool:
    """Whether the kernel is there and can read these."""
    return kernel.is_available() and are_plain(x, running_mean, running_var, weight, bias, eps, stack_dims)


def are_plain(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: Tensor | float,
    stack_dims: int,
) -> bool:
    """Whether the kernel could read these: in memory, of x's dtype and of the right sizes, and contiguous (x is made
    so). Nothing is wrong with them then, as `check_arguments` would find it; otherwise it may say what is.
    """
    dtype, shape = x.dtype, x.shape
    num_dims = len(shape)
    if num_dims < stack_dims + 2:
        return False
    if num_dims == 2:
        num_values, size = shape
    else:
        num_values = shape[stack_dims] * shape[stack_dims + 2 :].numel()
        size = shape[:stack_dims].numel() * shape[stack_dims + 1]
    if (
        dtype not in KERNEL_DTYPES
        or num_values < 2
        or not size
        or not (isinstance(eps, Tensor) or eps > 0)
        or not are_in_memory((x, running_mean, running_var, weight, bias), dtype)
    ):
        return False
    if running_mean is None or running_var is None:
        if running_mean is not running_var:
            return False
    elif running_mean.requires_grad or running_var.requires_grad:
        return False
    for tensor in (running_mean, running_var, weight, bias):
        if tensor is not None and not (
            tensor.numel() == size
            and tensor.is_contiguous()
            and (not stack_dims or tensor.shape == shape[:stack_dims] + shape[stack_dims + 1 : stack_dims + 2])
        ):
            return False
    return True


def may_be_plain(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    num_batches_tracked: Tensor | None,
) -> bool:
    """What `are_plain` asks and C cannot, and the dtype and device that others have most often."""
    return (
        type(x) in PLAIN
        and x.dtype in KERNEL_DTYPES
        and x.is_cpu
        and 2 <= x.dim() <= 3
        and type(weight) in PLAIN_OR_NONE
        and type(bias) in PLAIN_OR_NONE
        and type(num_batches_tracked) in PLAIN_OR_NONE
        and (
            running_mean is running_var is None
            or (
                type(running_mean) in PLAIN
                and type(running_var) in PLAIN
                and not running_mean.requires_grad  # type: ignore[union-attr]
                and not running_var.requires_grad  # type: ignore[union-attr]
            )
        )
    )


class KernelBatchNormFunction(torch.autograd.Function):
    """`BatchNormFunction` by the CPU kernel, which updates the running statistics too; of what `are_plain`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, settings: Settings) -> Tensor:
        y, statistics = kernel.forward(x, weight, bias, settings)
        ctx.settings = settings
        ctx.save_for_backward(x, weight, statistics)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> Gradients:
        x, weight, statistics = ctx.saved_tensors
        stack_dims = ctx.settings[-1]
        if not is_grad_enabled() and is_eager():
            needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
            if kernel.run_tensors is not None and not stack_dims:
                gradients = kernel.backward_of_tensors(x, grad_y, weight, statistics, needs_x, needs_weight, needs_bias)
                if gradients is not None:
                    return *gradients, None
            check_memory(x, grad_y, weight, statistics)
            if not is_batched(grad_y) and kernel.takes_back(x, grad_y, weight, statistics, stack_dims):
                return (
                    *kernel.backward(x, grad_y, weight, statistics, stack_dims, needs_x, needs_weight, needs_bias),
                    None,
                )
        mean, inv_std = statistics.view(2, *x.shape[:stack_dims], x.shape[stack_dims + 1])
        return differentiable_backward(ctx, grad_y, x, weight, None, mean, inv_std)


class CheckedBatchNormFunction(KernelBatchNormFunction):
    """The same of what `may_be_plain`, for one network; raises `UnreadableError` if it is not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, settings: Settings) -> Tensor:
        y, statistics = kernel.forward_of_tensors(x, weight, bias, settings)
        ctx.settings = settings
        ctx.save_for_backward(x, weight, statistics)
        return y


class CenteredBatchNormFunction(torch.autograd.Function):
    """`BatchNormFunction` on the CPU by torch's own batch norm; it updates the running statistics too.

    Kept for backward is c, x less its rounded mean, instead of x. It is an output for that: of a derivative of this
    derivative, the part in x then comes in as the gradient of that output.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, settings: Settings
    ) -> tuple[Tensor, Tensor]:
        y, c, residual, inv_std = centered.normalize(x, weight, bias, settings)
        ctx.settings = settings
        ctx.owns_c = hooks_on_saved(True) is None  # else a hook may keep it
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(c, weight, residual, inv_std)
        return y, c

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor | None, grad_c: Tensor | None) -> Gradients:
        if grad_y is None:
            return in_memory(grad_c), None, None, None
        grad_y, grad_c = in_memory(grad_y), in_memory(grad_c)
        c, weight, residual, inv_std = ctx.saved_tensors
        check_memory(c, grad_y, grad_c, weight)
        if grad_c is not None or is_grad_enabled() or not is_eager() or is_batched(grad_y):
            grad_x, *gradients = differentiable_backward(ctx, grad_y, c, weight, None, residual, inv_std)
            return (grad_x if grad_x is None or grad_c is None else grad_x + grad_c), gradients[0], gradients[1], None
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        grad_x = None
        if needs_x:  # where this graph is not kept for another backward, c is of no more use, and gives its memory
            grad_x = c.detach() if ctx.owns_c and not keeps_graph() else torch.empty_like(c)
        grad_weight, grad_bias = centered.backward(c, grad_y, weight, residual, inv_std, ctx.settings[-1], grad_x)
        return grad_x, grad_weight if needs_weight else None, grad_bias if needs_bias else None, None


class InPlaceBatchNormFunction(torch.autograd.Function):
    """`BatchNormFunction` in plain torch with few allocations; it updates the running statistics too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, settings: Settings) -> Tensor:
        running_mean, running_var, num_batches_tracked, momentum, eps, mask, stack_dims = settings
        if mask is None:
            y, rounded, mean, var, inv_std = in_place.normalize(x, weight, bias, eps, stack_dims)
            in_place.update_running_statistics(
                x, mean, var, running_mean, running_var, num_batches_tracked, momentum, stack_dims
            )
        else:
            found, c = formulas.batch_statistics(x, mask, stack_dims)
            rounded, mean, var = found.mean, found.mean + found.residual, found.var
            inv_std = formulas.inverse_std(var, eps)
            scale = inv_std if weight is None else inv_std * weight
            y = formulas.affine(c, found.residual, scale, bias, mask, stack_dims).to(x.dtype).contiguous()
            formulas.update_running_statistics(
                x, mean, var, running_mean, running_var, num_batches_tracked, momentum, mask, stack_dims
            )
        ctx.settings = settings
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.save_for_backward(x, weight, mask, rounded, inv_std)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> Gradients:
        x, weight, mask, mean, inv_std = ctx.saved_tensors
        check_memory(x, grad_y, weight)
        grad_y = in_memory(grad_y)
        if is_grad_enabled() or mask is not None or not is_eager() or is_batched(grad_y):
            return differentiable_backward(ctx, grad_y, x, weight, mask, mean, inv_std)
        gradients = in_place.backward(x, grad_y, weight, mean, inv_std, ctx.settings[-1], ctx.needs_input_grad[0])
        return wanted(ctx, gradients, x, weight)


apply_checked = apply_of(CheckedBatchNormFunction)
apply_kernel = apply_of(KernelBatchNormFunction)
apply_centered = apply_of(CenteredBatchNormFunction)
apply_in_place = apply_of(InPlaceBatchNormFunction)


def differentiable_backward(
    ctx: Any, grad_y: Tensor, x: Tensor, weight: Tensor | None, mask: Tensor | None, mean: Tensor, inv_std: Tensor
) -> Gradients:
    """Backward by operations that can be differentiated again, batched and traced; then the statistics are, too."""
    *_, eps, _, stack_dims = ctx.settings
    grad_y = in_memory(grad_y)
    if is_grad_enabled():
        statistics, c = formulas.batch_statistics(x, mask, stack_dims)
        inv_std = formulas.inverse_std(statistics.var, eps)
    else:
        c = formulas.centered(x, mean, mask, stack_dims)
        number = formulas.count(x, mask, stack_dims)
        statistics = Statistics(mean, formulas.total(c, stack_dims) / number, mean, number)
    return wanted(ctx, formulas.backward(grad_y, c, statistics, inv_std, weight, mask, stack_dims), x, weight)


def wanted(ctx: Any, gradients: tuple[Tensor | None, ...], x: Tensor, weight: Tensor | None) -> Gradients:
    """The gradients that are needed, each in the dtype of what it is the gradient of."""
    needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
    grad_x, grad_weight, grad_bias = gradients
    return (
        grad_x.to(x.dtype) if needs_x and grad_x is not None else None,
        grad_weight.to(weight.dtype) if needs_weight and weight is not None and grad_weight is not None else None,
        grad_bias.to(getattr(ctx, "bias_dtype", x.dtype)) if needs_bias and grad_bias is not None else None,
        None,
    )
