"""The one place where running statistics move in torch; in C, `finish_forward` of kernel.c moves those of its batch."""

import torch
from torch import Tensor

from bnlab.batch_norm.arithmetic.arguments import Settings
from bnlab.batch_norm.arithmetic.formulas import count, num_valid, per_network

__all__ = ["add_unless", "count_batch", "move", "unbiased"]

ONE = torch.tensor(1, device="cpu")  # of a plain number, torch makes a tensor in every operation


def unbiased(var: Tensor, x: Tensor, mask: Tensor | None, stack_dims: int) -> Tensor:
    """N / (N - 1) times the biased variance of the batch x; 0 where a mask leaves fewer than two values."""
    if mask is None:
        number = count(x, None, stack_dims)
        return var * (number / (number - 1))
    valid = num_valid(mask, stack_dims).to(var.dtype)  # integers would be divided in fp32
    return torch.where(valid > 1, var * (valid / (valid - 1).clamp(min=1)), 0)


def count_batch(num_batches_tracked: Tensor | None, momentum: Tensor | float | None) -> Tensor | float:
    """Count a batch. Return the momentum, where None averages all batches: 1 / num_batches_tracked, (*stack) if each
    network has its own count.
    """
    if num_batches_tracked is not None:
        num_batches_tracked.add_(ONE)
    if momentum is not None:
        return momentum
    if num_batches_tracked is None:
        return 0.0
    return 1.0 / (float(num_batches_tracked) if num_batches_tracked.numel() == 1 else num_batches_tracked.double())


def move(
    mean: Tensor, var: Tensor, settings: Settings, *, by_lerp: bool = False, recomputed: bool | Tensor = False
) -> None:
    """running += momentum * (new - running), in place; momentum None is 1 / num_batches_tracked, this batch counted.

    Where a mask leaves no value there is no mean, and where it leaves one there is no variance: those statistics stay.

    Args:
        mean, var: of the batch, the variance unbiased.
        by_lerp: where the dtypes allow, in one operation instead of three. It rounds differently, and vmap has no rule
            for it.
        recomputed: the batch was counted before. It takes the same operations all the same, up to the last, because
            selective checkpointing finds what it saved by the place of an operation among its like.
    """
    running_mean, running_var, num_batches_tracked, momentum, _, mask, stack_dims, _ = settings
    if mask is not None and running_mean is not None and running_var is not None:
        valid = num_valid(mask, stack_dims)
        mean, var = torch.where(valid > 0, mean, running_mean), torch.where(valid > 1, var, running_var)
    if (
        by_lerp
        and momentum is not None
        and running_mean is not None
        and running_var is not None
        and running_mean.dtype == mean.dtype
    ):
        if num_batches_tracked is not None:
            num_batches_tracked.add_(1)
        running_mean.lerp_(mean, per_network(momentum, mean))
        running_var.lerp_(var, per_network(momentum, var))
        return
    if momentum is None:
        momentum = 0.0 if num_batches_tracked is None else (num_batches_tracked + 1).to(mean.dtype).reciprocal()
        if isinstance(momentum, Tensor) and momentum.numel() == 1:  # (1,) counts for one network, too
            momentum = momentum.reshape(())
    factor = per_network(momentum, mean)
    steps: list[tuple[Tensor, Tensor | int]] = []
    if num_batches_tracked is not None:
        steps.append((num_batches_tracked, 1))
    if running_mean is not None:
        steps.append((running_mean, (mean - running_mean) * factor))
    if running_var is not None:
        steps.append((running_var, (var - running_var) * factor))
    for statistic, step in steps:
        add_unless(recomputed, statistic, step)


def add_unless(recomputed: bool | Tensor, statistic: Tensor, step: Tensor | int) -> None:
    if isinstance(recomputed, Tensor):  # known when the graph is run
        # Chosen last: selective checkpointing may bring back the sum of the first forward.
        statistic.copy_(torch.where(recomputed, statistic, statistic + step))
    elif not recomputed:
        statistic.add_(step)
