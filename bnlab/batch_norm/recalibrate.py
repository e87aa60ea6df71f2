"""Set population statistics from data: precise batch norm."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from bnlab.internals.torch_internals import BatchNormBase

__all__ = ["recalibrate"]


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Iterable[object]) -> None:
    r"""Set the running statistics of every batch norm in `network` to those of the data (Wu & Johnson 2021,
    arXiv:2105.07576, section 3, "precise batch norm").

    With batch b of N_b values per channel, mean_b and biased variance var_b, N the sum of all N_b:
        running_mean = sum_b N_b mean_b / N
        running_var  = sum_b N_b (var_b + (mean_b - running_mean)^2) / (N - 1)
    For the first batch norm these are exactly the mean and the unbiased variance of the data, however it is split into
    batches. Later layers see inputs normalized by the batches' own statistics, as in training, so use batches of the
    training size. Masked samples do not count, and an empty batch changes nothing.

    Args:
        network: the network; its mode is restored, and gradients, weights and other modules' buffers are not changed.
        batches: each batch, or its first element if it is a tuple or list, is the only argument of the network.
    Raises:
        ValueError: if there is no batch, or no batch has a value for any of the batch norms.
    """
    norms = [
        module
        for module in network.modules()
        if isinstance(module, BatchNormBase)
        and module.running_mean is not None
        and module.running_var is not None
        and not getattr(module, "frozen", False)
    ]
    sums = {norm: ChannelSums() for norm in norms}
    hooks = [norm.register_forward_pre_hook(sums[norm].add, with_kwargs=True) for norm in norms]
    was_training = {module: module.training for module in network.modules()}
    kept = {norm: [None if b is None else b.clone() for b in norm.buffers(recurse=False)] for norm in norms}
    num_batches = 0
    try:
        network.eval()
        for norm in norms:
            norm.train()
        for batch in batches:
            network(batch[0] if isinstance(batch, tuple | list) else batch)
            num_batches += 1
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in was_training.items():
            module.training = mode
        for norm in norms:
            for buffer, before in zip(norm.buffers(recurse=False), kept[norm], strict=True):
                buffer.copy_(before)
    if not num_batches:
        raise ValueError("`batches` must hold at least one batch to take statistics of, but was empty.")
    if any(each.is_used for each in sums.values()) and not any(each.count for each in sums.values()):
        raise ValueError(
            f"`batches` must hold at least one value to take statistics of, but all {num_batches} were empty or masked."
        )
    for norm in norms:
        sums[norm].write_to(norm)


class ChannelSums:
    """Count, mean and sum of squared deviations per channel, in double, merged batch by batch (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.is_used = False
        self.count = 0
        self.mean: Tensor | float = 0.0
        self.square: Tensor | float = 0.0

    def add(self, norm: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor | None]) -> None:
        self.is_used = True
        given = inputs[0] if inputs else named["input"]
        assert given is not None
        x = given.detach().double().transpose(0, 1).flatten(1)  # (C, values)
        mask = inputs[1] if len(inputs) > 1 else named.get("mask")
        if mask is not None:
            x = x[:, mask.flatten()]
        count = x.shape[1]
        if not count:
            return
        mean = x.mean(1)
        move = mean - self.mean
        total = self.count + count
        self.square = self.square + (x - mean[:, None]).square().sum(1) + move.square() * (self.count * count / total)
        self.mean = self.mean + move * (count / total)
        self.count = total

    def write_to(self, norm: BatchNormBase) -> None:
        if not self.count:  # the network does not use this batch norm, or it saw only masked values
            return
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.copy_(torch.as_tensor(self.mean))
        if self.count > 1:  # one value has no variance
            norm.running_var.copy_(torch.as_tensor(self.square) / (self.count - 1))
