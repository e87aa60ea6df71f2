"""The CPU kernel as a back end that looks for itself what a tensor is, for one network; and by pointers for all else.

To ask in Python takes longer than a small batch norm (`tensors_in_c.py`).
"""

import torch
from torch import Tensor

from bnlab.batch_norm import kernel, kernel_by_pointers
from bnlab.batch_norm.arguments import Settings
from bnlab.batch_norm.kernel_check import BACKWARD, FORWARD
from bnlab.batch_norm.plain import PLAIN, check_memory
from bnlab.batch_norm.tensors_in_c import pack_tensors
from bnlab.internals.torch_internals import c_tensor
from bnlab.internals.torch_internals import empty_strided as empty

__all__ = ["UnreadableError", "backward", "forward"]

PLAIN_OR_NONE = {*PLAIN, type(None)}

ROW = (1,)  # the strides of one


class UnreadableError(Exception):
    """A tensor is not what the kernel reads; nothing has been computed."""


def forward(x: Tensor, weight: Tensor | None, bias: Tensor | None, settings: Settings) -> tuple[Tensor, Tensor]:
    """y, and in one row the (2, *stack, C) rounded means and 1 / sqrt(var + eps); the running statistics are updated.

    Raises:
        UnreadableError: so batch norm in plain torch may be tried, which may say what is wrong.
    """
    running_mean, running_var, num_batches_tracked, momentum, eps, _, stack_dims = settings
    if (  # what C does not see: Python's types, and what autograd wants
        kernel.run_tensors is not None
        and not stack_dims
        and type(momentum) is float
        and type(eps) is float
        and eps > 0
        and type(x) in PLAIN
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
    ):
        size, strides, num_features = contiguous(x.shape)
        dtype = x.dtype
        y = empty(size, strides, dtype)
        statistics = empty((2 * num_features,), ROW, dtype)
        if kernel.run_tensors(
            pack_tensors(
                direction=FORWARD,
                x=c_tensor(x),
                out=c_tensor(y),
                weight=0 if weight is None else c_tensor(weight),
                bias=0 if bias is None else c_tensor(bias),
                statistics=c_tensor(statistics),
                running_mean=0 if running_mean is None else c_tensor(running_mean),
                running_var=0 if running_var is None else c_tensor(running_var),
                num_batches_tracked=0 if num_batches_tracked is None else c_tensor(num_batches_tracked),
                threads=kernel.num_threads(x),
                eps=eps,
                momentum=momentum,
            )
        ):
            return y, statistics
        if not x.is_contiguous():
            return forward(x.contiguous(), weight, bias, settings)
    check_memory(x, running_mean, running_var, weight, bias)
    if not kernel_by_pointers.takes(x, weight, bias, settings):
        raise UnreadableError
    return kernel_by_pointers.forward(x, weight, bias, settings)


def backward(
    x: Tensor,
    grad_y: Tensor,
    weight: Tensor | None,
    statistics: Tensor,
    stack_dims: int,
    needs_x: bool,
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None] | None:
    """dL/dx, dL/dweight and dL/dbias, those that are needed; None if the kernel cannot read all this.

    The gradient may be anything. What was saved has been seen by forward, but a leaf may have been given other data
    since (as `layer.double()` does), and a hook on saved tensors may return what it likes.
    """
    if (
        kernel.run_tensors is not None
        and not stack_dims
        and type(grad_y) in PLAIN
        and type(x) in PLAIN
        and 2 <= x.dim() <= 3
        and type(statistics) in PLAIN
        and type(weight) in PLAIN_OR_NONE
    ):
        size, strides, num_features = contiguous(x.shape)
        dtype = x.dtype
        grad_x = empty(size, strides, dtype) if needs_x else None
        grad_weight = empty((num_features,), ROW, dtype) if needs_weight else None
        grad_bias = empty((num_features,), ROW, dtype) if needs_bias else None
        if kernel.run_tensors(
            pack_tensors(
                direction=BACKWARD,
                x=c_tensor(x),
                grad_y=c_tensor(grad_y),
                out=0 if grad_x is None else c_tensor(grad_x),
                weight=0 if weight is None else c_tensor(weight),
                grad_weight=0 if grad_weight is None else c_tensor(grad_weight),
                grad_bias=0 if grad_bias is None else c_tensor(grad_bias),
                statistics=c_tensor(statistics),
                threads=kernel.num_threads(x),
            )
        ):
            return grad_x, grad_weight, grad_bias
        if not (x.is_contiguous() and grad_y.is_contiguous()):
            x, grad_y = x.contiguous(), grad_y.contiguous()
            return backward(x, grad_y, weight, statistics, 0, needs_x, needs_weight, needs_bias)
    check_memory(x, grad_y, weight, statistics)
    if not kernel_by_pointers.takes_back(x, grad_y, weight, statistics, stack_dims):
        return None
    needs = needs_x, needs_weight, needs_bias
    return kernel_by_pointers.backward(x, grad_y, weight, statistics, stack_dims, *needs)


def contiguous(shape: torch.Size) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """The size and the strides of (N, C) or (N, C, L), contiguous; and C."""
    if len(shape) == 2:
        num_samples, num_features = shape
        return (num_samples, num_features), (num_features, 1), num_features
    num_samples, num_features, length = shape
    return (num_samples, num_features, length), (num_features * length, length, 1), num_features
