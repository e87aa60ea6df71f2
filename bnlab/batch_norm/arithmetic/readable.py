"""Check that code which takes pointers may read tensors: one float dtype, in memory, contiguous, with fitting sizes.

C reads whatever is at an address, and so do torch's internal operations, which skip the checks of its public functions.
"""

import torch
from torch import Tensor

from bnlab.batch_norm.arithmetic.arguments import Settings
from bnlab.batch_norm.arithmetic.back_end import Saved
from bnlab.batch_norm.arithmetic.plain import are_in_memory
from bnlab.internals.torch_internals import is_batched

__all__ = ["are_readable", "are_readable_in_backward"]

DTYPES = {torch.float32, torch.float64}


def are_readable(x: Tensor, weight: Tensor | None, bias: Tensor | None, settings: Settings) -> bool:
    """Whether a training forward without a mask may read these, once x is contiguous.

    If so, they also pass `check_arguments`; if not, `check_arguments` may report an error in them.
    """
    running_mean, running_var, _, _, eps, mask, stack_dims, _ = settings
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
        dtype not in DTYPES
        or mask is not None
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


def are_readable_in_backward(saved: Saved, grad_y: Tensor, stack_dims: int) -> bool:
    """Whether a backward may read these, once x and grad_y are contiguous.

    The gradient may be any tensor. Forward has checked the saved tensors, but the data of a leaf may have been replaced
    since (as `layer.double()` does), and a hook on saved tensors may return anything.

    Args:
        saved: x, weight and the statistics, two numbers per channel.
    """
    x, weight, *statistics = saved
    assert x is not None
    rows = [each for each in statistics if each is not None]
    size = x.shape[:stack_dims].numel() * x.shape[stack_dims + 1]
    return (
        not is_batched(grad_y)
        and grad_y.shape == x.shape
        and are_in_memory((x, grad_y, weight, *rows), rows[0].dtype)
        and all(row.is_contiguous() and row.numel() == 2 * size // len(rows) for row in rows)
        and (weight is None or (weight.numel() == size and weight.is_contiguous()))
    )
