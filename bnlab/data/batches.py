"""Replaces torch's DataLoader, which takes longer per step for data in memory; delete when it only indexes tensors.

The order of the mini-batches depends on (seed, epoch) alone. Figures: bnlab/bench/records/library_functions.md.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from bnlab.data.splits import Split
from bnlab.errors import UserError

__all__ = ["EVALUATION_BATCH_SIZE", "Batches", "EpochOrder"]

EVALUATION_BATCH_SIZE = 1024


class EpochOrder:
    """The order of the samples in each epoch, which depends on (seed, epoch) alone.

    Lightning calls `set_epoch` on the `sampler` of a loader at the start of every epoch.
    """

    def __init__(self, num_samples: int, seed: int) -> None:
        self.num_samples = num_samples
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def indices(self) -> Tensor:
        """Return a permutation of 0, ..., num_samples - 1, int64."""
        # torch's generator uses 32 bits of a seed; SeedSequence hashes (seed, epoch) to them.
        mixed = int(np.random.SeedSequence([self.seed, self.epoch]).generate_state(1)[0])
        return torch.randperm(self.num_samples, generator=torch.Generator().manual_seed(mixed))


class Batches:
    """Iterate over the mini-batches (x, y) of a split.

    A last batch of a single sample, whose variance would be 0, is merged into the previous one. So nothing is dropped,
    and networks with and without batch norm see the same batches.

    Args:
        split: the samples; batches live on their device.
        batch_size: the number of samples per batch, or None for all in one.
        sampler: the order of each epoch; None for the order of the split.
    Raises:
        UserError: the batch size is below 1 or above the number of samples.
    """

    def __init__(self, split: Split, batch_size: int | None = None, sampler: EpochOrder | None = None) -> None:
        num_samples = len(split)
        if batch_size is not None and not 1 <= batch_size <= num_samples:
            raise UserError(
                f"`data.batch_size` must be between 1 and the {num_samples} samples of the training set, but got "
                f"{batch_size}; `full` takes all of them as one batch."
            )
        self.split = split
        self.sampler = sampler
        self.batch_sampler = None  # Lightning reads it if there is a sampler
        self.sizes = _sizes(num_samples, batch_size or num_samples)

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = self.split.x, self.split.y
        if self.sampler is None or len(self) == 1:  # the order within a batch makes no difference
            yield from zip(x.split(self.sizes), y.split(self.sizes), strict=True)
            return
        for indices in self.sampler.indices().to(x.device).split(self.sizes):
            yield x.index_select(0, indices), y.index_select(0, indices)


def _sizes(num_samples: int, batch_size: int) -> list[int]:
    num_full, rest = divmod(num_samples, batch_size)
    sizes = [batch_size] * num_full
    if rest == 1 and batch_size > 1:
        sizes[-1] += 1
    elif rest:
        sizes.append(rest)
    return sizes
