"""The CPU kernel as a back end that sees for itself what a tensor is, for one network; and by pointers for all else.

To ask in Python takes longer than a small batch norm (`tensors_in_c.py`).
"""

from torch import Tensor

from bnlab.batch_norm.arithmetic.arguments import Settings
from bnlab.batch_norm.arithmetic.back_end import Found, Gradients, Needs, Saved
from bnlab.batch_norm.arithmetic.plain import PLAIN, check_memory
from bnlab.batch_norm.arithmetic.readable import are_readable_in_backward
from bnlab.batch_norm.back_ends import kernel, kernel_by_pointers
from bnlab.batch_norm.back_ends.kernel_check import BACKWARD, FORWARD
from bnlab.batch_norm.back_ends.tensors_in_c import pack_tensors
from bnlab.internals.torch_internals import c_tensor, is_batched
from bnlab.internals.torch_internals import empty_strided as empty

__all__ = ["UnreadableError", "backward", "forward"]

PLAIN_OR_NONE = {*PLAIN, type(None)}

ROW = (1,)  # the strides of one


class UnreadableError(Exception):
    """A tensor is not what the kernel reads; nothing has been computed."""


def forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, settings: Settings
) -> tuple[Tensor, Saved, Found | None]:
    """y; x, weight, and in one row the (2, *stack, C) rounded means and 1 / sqrt(var + eps).

    Raises:
        UnreadableError: so batch norm in plain torch may be tried, which may say what is wrong.
    """
    running_mean, running_var, num_batches_tracked, momentum, eps, _, stack_dims, returns_statistics = settings
    size = (*x.shape,)
    if (  # what C does not see: Python's types, and what autograd wants
        kernel.run_tensors is not None
        and not stack_dims
        and not returns_statistics
        and type(momentum) is float
        and type(eps) is float
        and eps > 0
        and type(x) in PLAIN
        and 2 <= len(size) <= 3
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
        dtype = x.dtype
        y = empty(size, x.stride(), dtype)
        statistics = empty((2 * size[1],), ROW, dtype)
        packed = pack_tensors(
            FORWARD,
            c_tensor(x),
            0,  # grad_y
            c_tensor(y),
            0 if weight is None else c_tensor(weight),
            0 if bias is None else c_tensor(bias),
            0,  # grad_weight
            0,  # grad_bias
            c_tensor(statistics),
            0 if running_mean is None else c_tensor(running_mean),
            0 if running_var is None else c_tensor(running_var),
            0 if num_batches_tracked is None else c_tensor(num_batches_tracked),
            1 if x.numel() <= kernel.SMALL else kernel.num_threads(),
            eps,
            momentum,
        )
        if kernel.run_tensors(packed):
            return y, (x, weight, statistics), None
        if not x.is_contiguous():
            check_memory(x)
            y, (_, *others), found = forward(x.contiguous(), weight, bias, settings)
            return y, (x, *others), found
    check_memory(x, running_mean, running_var, weight, bias)
    if not kernel_by_pointers.takes(x, weight, bias, settings):
        raise UnreadableError
    return kernel_by_pointers.forward(x, weight, bias, settings)


def backward(saved: Saved, grad_y: Tensor, stack_dims: int, needs: Needs) -> Gradients | None:
    x, weight, statistics = saved
    assert x is not None
    assert statistics is not None
    size = (*x.shape,)
    if (
        kernel.run_tensors is not None
        and not stack_dims
        and type(grad_y) in PLAIN
        and not is_batched(grad_y)
        and type(x) in PLAIN
        and 2 <= len(size) <= 3
        and type(statistics) in PLAIN
        and type(weight) in PLAIN_OR_NONE
    ):
        dtype = x.dtype
        needs_x, needs_weight, needs_bias = needs
        row = (size[1],)
        grad_x = empty(size, x.stride(), dtype) if needs_x else None
        grad_weight = empty(row, ROW, dtype) if needs_weight else None
        grad_bias = empty(row, ROW, dtype) if needs_bias else None
        packed = pack_tensors(
            BACKWARD,
            c_tensor(x),
            c_tensor(grad_y),
            0 if grad_x is None else c_tensor(grad_x),
            0 if weight is None else c_tensor(weight),
            0,  # bias
            0 if grad_weight is None else c_tensor(grad_weight),
            0 if grad_bias is None else c_tensor(grad_bias),
            c_tensor(statistics),
            0,  # running_mean
            0,  # running_var
            0,  # num_batches_tracked
            1 if x.numel() <= kernel.SMALL else kernel.num_threads(),
            0.0,  # eps
            0.0,  # momentum
        )
        if kernel.run_tensors(packed):
            return grad_x, grad_weight, grad_bias
        if not (x.is_contiguous() and grad_y.is_contiguous()):
            check_memory(x, grad_y)
            return backward((x.contiguous(), weight, statistics), grad_y.contiguous(), stack_dims, needs)
    check_memory(x, grad_y, weight, statistics)
    if not are_readable_in_backward(saved, grad_y, stack_dims):
        return None
    return kernel_by_pointers.backward(saved, grad_y, stack_dims, needs)
