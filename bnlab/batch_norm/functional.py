"""`batch_norm`: torch.nn.functional.batch_norm on the hand-written Functions, for one network or a stack of them."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import Proxy

from bnlab.batch_norm.arithmetic import running
from bnlab.batch_norm.arithmetic.arguments import (
    Settings,
    check_arguments,
    check_counter,
    check_stack_dims,
    per_network_numbers,
)
from bnlab.batch_norm.arithmetic.plain import check_memory, in_memory
from bnlab.batch_norm.back_ends import in_place, kernel, kernel_by_tensors, native
from bnlab.batch_norm.back_ends.kernel_by_tensors import UnreadableError
from bnlab.batch_norm.checkpointing.recomputation import answered, recomputing
from bnlab.batch_norm.eager import apply_by
from bnlab.batch_norm.function import (
    BatchNormFunction,
    BatchNormFunctionWithTangent,
)
from bnlab.internals.torch_internals import (
    graph_task,
    hooks_on_saved,
    is_eager,
    is_traced,
    requires_plain_operations,
    untraced,
)

__all__ = ["batch_norm"]

apply_kernel, apply_native, apply_in_place = map(apply_by, (kernel_by_tensors, native, in_place))


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: Tensor | float | None = 0.1,
    eps: Tensor | float = 1e-5,
    *,
    num_batches_tracked: Tensor | None = None,
    mask: Tensor | None = None,
    stack_dims: int = 0,
) -> Tensor:
    r"""Batch norm in the form of `torch.nn.functional.batch_norm`, with a mask and a stack of independent networks.

    In training:    y = weight * (x - mean) / sqrt(var + eps) + bias with the batch's own mean and biased variance, and
                    running_mean += momentum * (mean - running_mean), running_var likewise with the unbiased variance;
    in evaluation:  the same y with running_mean and running_var in place of the batch's.

    Args:
        input: (*stack, N, C) or (*stack, N, C, L).
        running_mean, running_var: (*stack, C), updated in place in training, or None.
        weight, bias: (*stack, C), or None.
        momentum: the weight of the new statistic, a number or (*stack); None to average all batches equally.
        eps: added to the variance, in units of input squared, a number or (*stack).
        num_batches_tracked: an int64 scalar tensor, incremented in training, by an empty batch too; required if
            momentum is None.
        mask: bool, (*stack, N) or (*stack, N, L), true where a sample counts. Where it is false the output and its
            gradient are 0, and the sample enters no statistic.
        stack_dims: how many leading dimensions of `input` are independent networks; the result is that of one call per
            network, bit for bit. It is 0 by default, so (K, N, C) is never taken for (N, C, L) or vice versa.
    Returns:
        y, shaped like input. A forward that activation checkpointing recomputes does not change the statistics.
    Raises:
        ValueError, RuntimeError: as `torch.nn.functional.batch_norm` does.
    """
    if isinstance(input, Proxy):  # one node of the graph, like torch's own
        arguments = (input, running_mean, running_var, weight, bias, training, momentum, eps)
        named = {"num_batches_tracked": num_batches_tracked, "mask": mask, "stack_dims": stack_dims}
        return input.tracer.create_proxy("call_function", batch_norm, arguments, named)
    settings = Settings(running_mean, running_var, num_batches_tracked, momentum, eps, mask, stack_dims)
    return normalize(input, weight, bias, settings, training)


def normalize(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    settings: Settings,
    training: bool,
) -> Any:
    """Do `batch_norm`, or `normalize_batch` if the settings say so; a recomputation updates no running statistics."""
    running_mean, running_var, num_batches_tracked, momentum, eps, mask, stack_dims, returns_statistics = settings
    eager = is_eager()
    if type(stack_dims) is not int or stack_dims < 0:
        check_stack_dims(stack_dims)
    if type(eps) is not float or type(momentum) is not float:
        eps, momentum = per_network_numbers(eps, momentum, input, stack_dims, training, eager)
        running_statistics = running_mean, running_var, num_batches_tracked
        settings = Settings(*running_statistics, momentum, eps, mask, stack_dims, returns_statistics)
        if momentum is None and training:
            check_counter(num_batches_tracked, input.shape[:stack_dims])
    if eager and training and (graph_task() != -1 or hooks_on_saved(True)) and recomputing():
        running_mean = running_var = num_batches_tracked = None
        settings = Settings(None, None, None, momentum, eps, mask, stack_dims, returns_statistics)
    if training and eager and mask is None and kernel.is_available() and input.dtype in kernel.run_of and input.is_cpu:
        try:
            return apply_kernel(input, weight, bias, settings)
        except UnreadableError:
            pass
    if eager:
        check_memory(input, running_mean, running_var, weight, bias)
        if training and native.takes(input, weight, bias, settings):
            return apply_native(input, weight, bias, settings)
    is_tracing = check(input, running_mean, running_var, weight, bias, training, eps, mask, stack_dims)
    input, weight, bias = in_memory(input), in_memory(weight), in_memory(bias)
    if not is_tracing and not input.numel():  # it tells nothing about the statistics
        if training and num_batches_tracked is not None:
            running.add_unless(answered(recomputing(), input), num_batches_tracked, 1)
        return normalize_empty(input, weight, bias)
    if training and eager:
        return apply_in_place(input, weight, bias, settings)
    # TorchDynamo refuses a Function that has a forward-mode derivative.
    forward_mode = not eager and not torch.compiler.is_compiling()
    function: Any = BatchNormFunctionWithTangent if forward_mode else BatchNormFunction
    as_operations = is_tracing or (forward_mode and requires_plain_operations())  # a traced Function cannot be saved
    statistics = (None, None) if training else (running_mean, running_var)
    normalize_by = function.forward if as_operations else function.apply
    y, mean, var = normalize_by(input, weight, bias, *statistics, eps, mask, stack_dims)
    if not training:
        return y
    with torch.no_grad():
        mean, var = mean.detach(), running.unbiased(var.detach(), input, mask, stack_dims)
        if returns_statistics:
            return y, mean, var
        running.move(mean, var, settings, recomputed=answered(recomputing(), input))
    return y


def normalize_batch(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, mask: Tensor | None, stack_dims: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the batch mean and the unbiased variance, (*stack, C); 0 where a mask leaves too few values."""
    y, mean, var = normalize(x, weight, bias, Settings(None, None, None, 0.0, eps, mask, stack_dims, True), True)
    return y, mean, var


def check(*arguments: Any) -> bool:
    """Do `check_arguments`; return whether `torch.jit.trace` is active."""
    if not is_traced():
        check_arguments(*arguments)
        return False
    with untraced():
        check_arguments(*arguments)
    return True


def normalize_empty(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Normalize an empty batch: the result is empty, and gradients are zero, as in torch."""
    y = x.clone()
    for parameter in (weight, bias):
        if parameter is not None and parameter.numel():
            y = y * parameter.flatten()[0]
    return y
