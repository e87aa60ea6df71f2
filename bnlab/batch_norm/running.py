"""The one place where running statistics move in torch; in C, `finish_forward` of kernel.c moves those of its batch."""

import torch
from torch import Tensor

from bnlab.batch_norm.arguments import Settings
from bnlab.batch_norm.formulas import count, num_valid, per_network

__all__ = ["add_unless", "known", "move", "update"]


def update(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    settings: Settings,
    *,
    by_lerp: bool = False,
    recomputed: bool | Tensor = False,
) -> None:
    """Take the batch's mean and N / (N - 1) times its biased variance into the running statistics.

    Where a mask leaves no value there is no mean, and where it leaves one there is no variance: those statistics stay.
    """
    running_mean, running_var, num_batches_tracked, momentum, _, mask, stack_dims = settings
    if mask is not None and running_mean is not None and running_var is not None:
        valid = num_valid(mask, stack_dims).to(var.dtype)  # integers would be divided in fp32
        unbiased = var * (valid / (valid - 1).clamp(min=1))
        mean, var = known(mean, unbiased, running_mean, running_var, mask, stack_dims)
    elif running_var is not None:
        number = count(x, None, stack_dims)
        var = var * (number / (number - 1))
    running = running_mean, running_var, num_batches_tracked, momentum
    move(mean, var, *running, by_lerp=by_lerp, recomputed=recomputed)


def known(
    mean: Tensor, var: Tensor, running_mean: Tensor, running_var: Tensor, mask: Tensor | None, stack_dims: int
) -> tuple[Tensor, Tensor]:
    """The batch's mean and unbiased variance, or the running ones where a mask leaves too few values to have any."""
    if mask is None:
        return mean, var
    valid = num_valid(mask, stack_dims)
    return torch.where(valid > 0, mean, running_mean), torch.where(valid > 1, var, running_var)


def move(
    mean: Tensor,
    var: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    momentum: Tensor | float | None,
    *,
    by_lerp: bool = False,
    recomputed: bool | Tensor = False,
) -> None:
    """running += momentum * (new - running), in place; momentum None is 1 / num_batches_tracked, this batch counted.

    Args:
        by_lerp: where the dtypes allow, in one operation instead of three. It rounds otherwise, and vmap has no rule
            for it.
        recomputed: the batch was counted before. It takes the same operations all the same, up to the last, because
            selective checkpointing finds what it saved by the place of an operation among its like.
    """
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
