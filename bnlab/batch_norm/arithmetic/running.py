"""Update the running statistics in torch; in C, `finish_forward` of kernel.c does so for its batch."""

import torch
from torch import Tensor

from bnlab.batch_norm.arithmetic.arguments import Settings
from bnlab.batch_norm.arithmetic.formulas import count, num_valid, per_network

__all__ = ["add_unless", "count_batch", "move", "unbiased"]

ONE = torch.tensor(1, device="cpu")  # torch would convert a plain number to a tensor in every operation


def unbiased(var: Tensor, x: Tensor, mask: Tensor | None, stack_dims: int) -> Tensor:
    """Return N / (N - 1) times the biased variance of the batch x; 0 where a mask leaves fewer than two values."""
    if mask is None:
        number = count(x, None, stack_dims)
        return var * (number / (number - 1))
    valid = num_valid(mask, stack_dims).to(var.dtype)  # integers would be divided in fp32
    return torch.where(valid > 1, var * (valid / (valid - 1).clamp(min=1)), 0)


def count_batch(num_batches_tracked: Tensor | None, momentum: Tensor | float | None) -> Tensor | float:
    """Count a batch and return the momentum; None, which averages all batches, gives 1 / num_batches_tracked.

    This is (*stack) if each network has its own count.
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
    """Update running += momentum * (new - running) in place; momentum None means 1 / num_batches_tracked.

    The count includes this batch. A mean without a value, or a variance of a single value, leaves the running statistic
    unchanged.

    Args:
        mean, var: the mean and the unbiased variance of the batch.
        by_lerp: use one operation instead of three if the dtypes allow it; it rounds differently, and vmap has no rule
            for it.
        recomputed: whether the batch was counted before. All operations except the last are then repeated, because
            selective checkpointing finds its saved results by counting the operations of a kind.
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
    if isinstance(recomputed, Tensor):  # its value is known only when the graph runs
        # The choice comes last, because selective checkpointing may return the sum of the first forward.
        statistic.copy_(torch.where(recomputed, statistic, statistic + step))
    elif not recomputed:
        statistic.add_(step)
