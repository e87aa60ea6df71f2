"""Mini-batches for K networks: shared where their seeds agree; otherwise each network keeps the order it has alone."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bnlab.data import Batches, EpochOrder, Split

__all__ = ["StackedBatches"]


class StackedBatches:
    """The training batches of K networks.

    Args:
        split: the samples, on the device and in the dtype of the training.
        batch_size: None puts all samples into one batch.
        seeds: one per network.
    Attributes:
        sizes: the sizes of the batches of an epoch.
    Raises:
        UserError: a batch size below 1 or above the number of samples.
    """

    def __init__(self, split: Split, batch_size: int | None, seeds: Sequence[int]) -> None:
        self.sizes = Batches(split, batch_size).sizes
        self._split = split
        self._seeds = list(seeds)
        self._gathered: dict[int, Tensor] = {}

    def keep(self, indices: Sequence[int]) -> None:
        self._seeds = [self._seeds[index] for index in indices]
        self._gathered = {}

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch, counted from 0: x (K, N, ...) and y (K, N), or (N, ...) and (N,) if shared.

        Each batch overwrites the previous one.
        """
        x, y = self._split.x, self._split.y
        if len(self.sizes) == 1:  # the order within a single batch makes no difference
            yield x, y
            return
        orders = {seed: EpochOrder(len(y), seed) for seed in self._seeds}
        for order in orders.values():
            order.set_epoch(epoch)
        permutations = {seed: order.indices() for seed, order in orders.items()}
        if len(permutations) == 1:
            (permutation,) = permutations.values()
            for indices in permutation.to(x.device).split(self.sizes):
                yield x.index_select(0, indices), y.index_select(0, indices)
            return
        of_networks = torch.stack([permutations[seed] for seed in self._seeds]).to(x.device)
        for part in of_networks.split(self.sizes, 1):
            indices = part.reshape(-1)
            if len(indices) not in self._gathered:
                self._gathered[len(indices)] = x.new_empty(len(indices), *x.shape[1:])
            gathered = torch.index_select(x, 0, indices, out=self._gathered[len(indices)])
            yield gathered.unflatten(0, part.shape), y[part]
