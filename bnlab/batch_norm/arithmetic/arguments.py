"""Check the arguments of `batch_norm`; an argument that torch refuses, too, is refused in torch's own words."""

from typing import NamedTuple

import torch
from torch import Tensor

from bnlab.batch_norm.arithmetic.formulas import count

__all__ = ["Settings", "check_arguments", "check_counter", "check_stack_dims", "per_network_numbers"]


class Settings(NamedTuple):
    """The arguments of batch norm other than its input and its parameters; see `batch_norm`."""

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    momentum: Tensor | float | None
    eps: Tensor | float
    mask: Tensor | None
    stack_dims: int
    returns_statistics: bool = False  # return mean and unbiased variance, too, and leave the running statistics


HALF = (torch.float16, torch.bfloat16)

# torch's messages name dtypes as C++ does.
SCALAR_TYPES = {
    torch.float16: "Half",
    torch.bfloat16: "BFloat16",
    torch.float32: "Float",
    torch.float64: "Double",
    torch.bool: "Bool",
    torch.uint8: "Byte",
    torch.int8: "Char",
    torch.int16: "Short",
    torch.int32: "Int",
    torch.int64: "Long",
    torch.complex64: "ComplexFloat",
    torch.complex128: "ComplexDouble",
}


def check_arguments(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    eps: Tensor | float,
    mask: Tensor | None,
    stack_dims: int,
) -> None:
    """Raise ValueError or RuntimeError if the input cannot be normalized with these arguments."""
    if x.dim() > stack_dims and training and mask is None and count(x, None, stack_dims) == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.shape}")
    if not isinstance(eps, Tensor):
        check_eps(eps, training)
    if x.dim() < stack_dims + 2:
        if not x.numel():
            return
        if stack_dims:
            raise ValueError(
                f"`input` must be (*stack, N, C) or (*stack, N, C, L) with {stack_dims} stack dimensions, but got "
                f"{tuple(x.shape)}: for one network pass `stack_dims=0`."
            )
        raise IndexError("Dimension out of range (expected to be in range of [-1, 0], but got 1)")
    statistics = {"running_mean": running_mean, "running_var": running_var}
    if training and (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var must either both be None or neither be None")
    for name, tensor in statistics.items():
        if tensor is None and not training:
            raise RuntimeError(f"{name} must be defined in evaluation mode")
        if tensor is not None and tensor.requires_grad:
            raise RuntimeError(
                f"The function 'native_batch_norm' is not differentiable with respect to argument '{name}'. "
                "This input cannot have requires_grad True."
            )
    check_sizes(x, {**statistics, "weight": weight, "bias": bias}, stack_dims)
    check_dtypes(x, running_mean, running_var, weight, bias)
    if mask is not None:
        expected = x.shape[: stack_dims + 1] + x.shape[stack_dims + 2 :]
        if mask.dtype != torch.bool or mask.shape != expected:
            raise ValueError(
                f"`mask` must be a bool tensor of shape {tuple(expected)}, true where a sample counts, but got "
                f"{mask.dtype} of shape {tuple(mask.shape)}. From valid lengths: `torch.arange(L) < lengths[:, None]`."
            )


def check_stack_dims(stack_dims: int) -> None:
    if type(stack_dims) is not int or stack_dims < 0:
        raise ValueError(f"`stack_dims` must count leading dimensions of the input, 0 or more, but got {stack_dims!r}.")


def check_eps(eps: Tensor | float, training: bool) -> None:
    """Check eps with torch's messages. A NaN passes as a number, as it does in torch, but not within a tensor."""
    if isinstance(eps, Tensor):
        if eps.numel() and not (eps.min() > 0 if training else eps.min() >= 0):
            rule = "positive during training" if training else "non-negative"
            raise ValueError(f"batch_norm eps must be {rule}, but got {eps.tolist()}")
    elif training and eps <= 0.0:
        raise ValueError(f"batch_norm eps must be positive during training, but got {eps}")
    elif eps < 0.0:
        raise ValueError(f"batch_norm eps must be non-negative, but got {eps}")


def per_network_numbers(
    eps: Tensor | float,
    momentum: Tensor | float | None,
    x: Tensor,
    stack_dims: int,
    training: bool,
    can_read: bool,
) -> tuple[Tensor | float, Tensor | float | None]:
    """Return eps and momentum as numbers or as tensors (*stack); a tensor of one element becomes a number.

    Args:
        can_read: whether the values of a tensor on the CPU can be read, because nothing traces or transforms it.
    Raises:
        ValueError: a shape is wrong, eps is not positive, or one of them requires a gradient, which neither has.
        TypeError: one of them is not a number.
    """
    stack = tuple(x.shape[:stack_dims])
    results: list[Tensor | float | None] = []
    for name, value in (("eps", eps), ("momentum", momentum)):
        if not isinstance(value, Tensor):
            if not (hasattr(value, "__float__") or (value is None and name == "momentum")):
                raise TypeError(f"`{name}` must be a number or a tensor of numbers, but got {value!r}.")
            results.append(value)
            continue
        if value.requires_grad:
            raise ValueError(f"`{name}` has no gradient here, so it must not require one: pass `{name}.detach()`.")
        if value.numel() != 1 and value.shape != stack:
            expected = f"a number or have the shape {stack} of the stack" if stack else "a number"
            raise ValueError(f"`{name}` must be {expected}, but got a tensor of shape {tuple(value.shape)}.")
        is_known = can_read and value.is_cpu
        if name == "eps" and is_known:
            check_eps(value, training)
        if value.numel() == 1:
            value = float(value) if is_known else value.reshape(())
        results.append(value)
    return tuple(results)  # type: ignore[return-value]


def check_counter(num_batches_tracked: Tensor | None, stack: tuple[int, ...]) -> None:
    """Check the shape of the counter by which momentum None averages: one for all networks, or one per network."""
    if num_batches_tracked is not None and num_batches_tracked.numel() != 1 and num_batches_tracked.shape != stack:
        raise ValueError(
            f"`num_batches_tracked` must be one number or have the shape {tuple(stack)} of the stack, "
            f"but got {tuple(num_batches_tracked.shape)}."
        )


def check_sizes(x: Tensor, named: dict[str, Tensor | None], stack_dims: int) -> None:
    stack, num_features = x.shape[:stack_dims], x.shape[stack_dims + 1]
    for name, tensor in named.items():
        if tensor is None:
            continue
        if stack_dims:
            if tensor.shape != (*stack, num_features):
                raise ValueError(
                    f"`{name}` must have the shape {(*stack, num_features)} of a stack of {tuple(stack)} networks, but "
                    f"got {tuple(tensor.shape)}: give each network its own, or pass `stack_dims=0` for one network."
                )
        elif tensor.numel() != num_features:
            hint = ""
            if tensor.dim() > 1 and tensor.shape[:-1] == x.shape[: tensor.dim() - 1]:
                hint = f"; for a stack of networks pass `stack_dims={tensor.dim() - 1}`"
            raise RuntimeError(f"{name} should contain {num_features} elements not {tensor.numel()}{hint}")


def check_dtypes(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
) -> None:
    """Check that the dtypes agree; with a half type, parameters or buffers may be fp32 (in torch, both or none)."""
    if x.dtype not in SCALAR_TYPES or not x.is_floating_point():
        raise NotImplementedError(f"\"batch_norm\" not implemented for '{SCALAR_TYPES.get(x.dtype, x.dtype)}'")
    parameters = [tensor.dtype for tensor in (weight, bias) if tensor is not None]
    buffers = [tensor.dtype for tensor in (running_mean, running_var) if tensor is not None]
    for dtypes in (parameters, buffers):
        others = [dtype for dtype in dtypes if dtype != x.dtype and not (x.dtype in HALF and dtype == torch.float32)]
        if not others:
            continue
        if dtypes is buffers and (not parameters or parameters[0] == x.dtype):
            raise RuntimeError(f"expected scalar type {SCALAR_TYPES[x.dtype]} but found {SCALAR_TYPES[others[0]]}")
        if any(dtype != torch.float32 for dtype in (*parameters, *buffers)):
            raise RuntimeError("mixed dtype (CPU): expect parameter to have scalar type of Float")
        raise RuntimeError("mixed dtype (CPU): all inputs must share same datatype.")
