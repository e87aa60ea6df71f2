"""The CPU kernel as a back end that is told in Python where the numbers are, for one network or a stack of them.

What it is given has to be as `takes` and `takes_back` say: C reads whatever is at the addresses.
"""

import torch
from torch import Tensor

from bnlab.batch_norm import kernel
from bnlab.batch_norm.arguments import Settings
from bnlab.batch_norm.kernel_check import BACKWARD, FORWARD, Problem
from bnlab.batch_norm.plain import are_in_memory

__all__ = ["backward", "forward", "takes", "takes_back"]

ONE = torch.tensor(1, device="cpu")  # of a plain number, torch makes a tensor in every operation


def takes(x: Tensor, weight: Tensor | None, bias: Tensor | None, settings: Settings) -> bool:
    """Whether the kernel is there and can read these: in memory, of x's dtype and of the right sizes, and contiguous (x
    is made so). Nothing is wrong with them then, as `check_arguments` would find it; otherwise it may say what is.
    """
    running_mean, running_var, _, _, eps, mask, stack_dims = settings
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
        not kernel.is_available()
        or dtype not in kernel.run_of
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


def forward(x: Tensor, weight: Tensor | None, bias: Tensor | None, settings: Settings) -> tuple[Tensor, Tensor]:
    """y, and in one row the (2, *stack, C) rounded means and 1 / sqrt(var + eps); the running statistics are updated.

    The counter is anything that can be counted with.
    """
    running_mean, running_var, num_batches_tracked, momentum, eps, _, stack_dims = settings
    if not x.is_contiguous():
        x = x.contiguous()
    y = torch.empty_like(x)
    num_networks, num_samples, num_features, length = sizes(x, stack_dims)
    statistics = x.new_empty(2 * num_networks * num_features)  # of one dimension, which is faster
    mean = statistics.data_ptr()
    if num_batches_tracked is not None:
        num_batches_tracked.add_(ONE)  # here, where it may be of any dtype, shape and device
    if momentum is None:
        momentum = 0.0 if num_batches_tracked is None else one_nth(num_batches_tracked)
    momentum_pointer, eps_pointer, momentum_number, eps_number = None, None, momentum, eps
    if type(eps) is not float:
        _eps, eps_pointer, eps_number = each_network(eps, x, num_networks)
    if type(momentum) is not float:
        _momentum, momentum_pointer, momentum_number = each_network(momentum, x, num_networks)
    kernel.run_of[x.dtype](
        Problem(
            direction=FORWARD,
            x=x.data_ptr(),
            out=y.data_ptr(),
            weight=pointer(weight),
            bias=pointer(bias),
            mean=mean,
            inv_std=mean + num_networks * num_features * x.itemsize,
            running_mean=pointer(running_mean),
            running_var=pointer(running_var),
            eps=eps_pointer,
            momentum=momentum_pointer,
            K=num_networks,
            N=num_samples,
            C=num_features,
            L=length,
            threads=kernel.num_threads(x),
            eps_number=eps_number,
            momentum_number=momentum_number,
        )
    )
    return y, statistics


def takes_back(x: Tensor, grad_y: Tensor, weight: Tensor | None, statistics: Tensor, stack_dims: int) -> bool:
    """Whether `backward` can read what autograd hands over.

    The gradient may be anything. What was saved has been seen by forward, but a leaf may have been given other data
    since (as `layer.double()` does), and a hook on saved tensors may return what it likes.
    """
    dtype, shape = statistics.dtype, x.shape
    size = statistics.numel() // 2
    return (
        grad_y.shape == shape
        and are_in_memory((x, grad_y, weight, statistics), dtype)
        and statistics.is_contiguous()
        and size == shape[:stack_dims].numel() * shape[stack_dims + 1]
        and (weight is None or (weight.numel() == size and weight.is_contiguous()))
    )


def backward(
    x: Tensor,
    grad_y: Tensor,
    weight: Tensor | None,
    statistics: Tensor,
    stack_dims: int,
    needs_x: bool,
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """dL/dx, dL/dweight and dL/dbias, those that are needed, from what `takes_back`."""
    if not x.is_contiguous():
        x = x.contiguous()
    if not grad_y.is_contiguous():
        grad_y = grad_y.contiguous()
    num_networks, num_samples, num_features, length = sizes(x, stack_dims)
    mean = statistics.data_ptr()
    grad_x = torch.empty_like(x) if needs_x else None
    grad_weight = torch.empty_like(weight) if needs_weight and weight is not None else None
    grad_bias = None
    if needs_bias and weight is not None:
        grad_bias = torch.empty_like(weight)
    elif needs_bias:
        grad_bias = x.new_empty(x.shape[:stack_dims] + x.shape[stack_dims + 1 : stack_dims + 2])
    kernel.run_of[x.dtype](
        Problem(
            direction=BACKWARD,
            x=x.data_ptr(),
            grad_y=grad_y.data_ptr(),
            out=pointer(grad_x),
            weight=pointer(weight),
            grad_weight=pointer(grad_weight),
            grad_bias=pointer(grad_bias),
            mean=mean,
            inv_std=mean + num_networks * num_features * x.itemsize,
            K=num_networks,
            N=num_samples,
            C=num_features,
            L=length,
            threads=kernel.num_threads(x),
        )
    )
    return grad_x, grad_weight, grad_bias


def one_nth(num_batches_tracked: Tensor) -> Tensor | float:
    """The momentum that averages all batches, this one counted; (*stack) where each network has its own count."""
    return 1.0 / (float(num_batches_tracked) if num_batches_tracked.numel() == 1 else num_batches_tracked.double())


def each_network(value: Tensor | float, x: Tensor, num_networks: int) -> tuple[Tensor | None, int | None, float]:
    """A number a network as the tensor that owns them and a pointer, a number as itself."""
    if not isinstance(value, Tensor):
        return None, None, value
    if not value.dim():
        return None, None, float(value)
    if value.numel() != num_networks:
        raise ValueError(f"Each of {num_networks} networks must have a number, but there are {tuple(value.shape)}.")
    if not are_in_memory((value,), x.dtype) or not value.is_contiguous():
        value = torch.empty(value.shape, dtype=x.dtype, device="cpu").copy_(value.detach())
    return value, value.data_ptr(), 0.0


def sizes(x: Tensor, stack_dims: int) -> tuple[int, int, int, int]:
    """K, N, C, L of x (*stack, N, C) or (*stack, N, C, L)."""
    shape = x.shape
    if len(shape) == 2:
        return 1, shape[0], shape[1], 1
    return shape[:stack_dims].numel(), shape[stack_dims], shape[stack_dims + 1], shape[stack_dims + 2 :].numel()


def pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
