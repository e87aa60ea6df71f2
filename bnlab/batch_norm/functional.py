"""`batch_norm`: torch.nn.functional.batch_norm on the hand-written Functions, for one network or a stack of them."""

import torch
from torch import Tensor

from bnlab.batch_norm import formulas
from bnlab.batch_norm.eager import InPlaceBatchNormFunction, KernelBatchNormFunction, is_eager, kernel_takes
from bnlab.batch_norm.function import (
    BatchNormFunction,
    BatchNormFunctionWithTangent,
    FixedStatisticsFunction,
    FixedStatisticsFunctionWithTangent,
)

__all__ = ["batch_norm"]


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
        running_mean, running_var: (*stack, C), updated in place in training; None to keep none.
        weight, bias: (*stack, C), or None.
        momentum: the weight of the new statistic, a number or (*stack); None to average all batches alike.
        eps: added to the variance, in units of input squared, a number or (*stack).
        num_batches_tracked: int64 of no dimensions, counted up by one in training; to be given for momentum None.
        mask: bool, (*stack, N) or (*stack, N, L), true where a sample counts. Where it is false the output and its
            gradient are 0, and the sample is in no statistic.
        stack_dims: how many leading dimensions of `input` are independent networks; the result is that of one call a
            network, bit for bit. It is 0 unless given, so (K, N, C) is never taken for (N, C, L) or the other way.
    Returns:
        y, as input.
    Raises:
        ValueError, RuntimeError: as `torch.nn.functional.batch_norm` does.
    """
    eager = is_eager()
    if training and eager:
        settings = (running_mean, running_var, num_batches_tracked, momentum, eps, mask, stack_dims)
        if mask is None and kernel_takes(input, running_mean, running_var, weight, bias, eps, stack_dims):
            return KernelBatchNormFunction.apply(input, weight, bias, settings)  # type: ignore[no-any-return]
        check_arguments(input, running_mean, running_var, weight, bias, training, eps, mask, stack_dims)
        return InPlaceBatchNormFunction.apply(input, weight, bias, settings)  # type: ignore[no-any-return]
    check_arguments(input, running_mean, running_var, weight, bias, training, eps, mask, stack_dims)
    # TorchDynamo takes no Function that has a derivative in forward mode.
    forward_mode = not eager and not torch.compiler.is_compiling()
    if not training:
        assert running_mean is not None
        assert running_var is not None
        dtype = formulas.computed_in(input)
        # Copies: what is written to the buffers between forward and backward is no business of this backward.
        mean = running_mean.detach().to(dtype, copy=True)
        inv_std = formulas.inverse_std(running_var.detach().to(dtype), eps)
        fixed_function = FixedStatisticsFunctionWithTangent if forward_mode else FixedStatisticsFunction
        return fixed_function.apply(input, weight, bias, mean, inv_std, mask, stack_dims)
    batch_function = BatchNormFunctionWithTangent if forward_mode else BatchNormFunction
    y, mean, var = batch_function.apply(input, weight, bias, eps, mask, stack_dims)
    with torch.no_grad():
        formulas.update_running_statistics(
            input, mean, var, running_mean, running_var, num_batches_tracked, momentum, mask, stack_dims
        )
    return y


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
    """Raise what torch raises, in its words; and what a mask or a stack can get wrong besides."""
    shape = x.shape
    if training and mask is None and formulas.count(x, None, stack_dims) == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {shape}")
    if not isinstance(eps, Tensor):
        if training and eps <= 0.0:
            raise ValueError(f"batch_norm eps must be positive during training, but got {eps}")
        if eps < 0.0:
            raise ValueError(f"batch_norm eps must be non-negative, but got {eps}")
    num_features = shape[stack_dims + 1]
    for name, tensor in (
        ("running_mean", running_mean),
        ("running_var", running_var),
        ("weight", weight),
        ("bias", bias),
    ):
        if tensor is None:
            continue
        if stack_dims:
            if tensor.shape != (*shape[:stack_dims], num_features):
                raise ValueError(
                    f"`{name}` must have the shape {(*shape[:stack_dims], num_features)} of a stack of "
                    f"{tuple(shape[:stack_dims])} networks, but got {tuple(tensor.shape)}: give each network its own, "
                    "or pass `stack_dims=0` for one network."
                )
        elif tensor.numel() != num_features:
            raise RuntimeError(f"{name} should contain {num_features} elements not {tensor.numel()}")
    if mask is not None and (
        mask.dtype != torch.bool or mask.shape != x.shape[: stack_dims + 1] + x.shape[stack_dims + 2 :]
    ):
        expected = tuple(x.shape[: stack_dims + 1] + x.shape[stack_dims + 2 :])
        raise ValueError(
            f"`mask` must be a bool tensor of shape {expected}, true where a sample counts, but got {mask.dtype} of "
            f"shape {tuple(mask.shape)}. For valid lengths: `torch.arange(L) < lengths[:, None]`."
        )
