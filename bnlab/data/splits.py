"""A data set as tensors: training, validation and test split."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bnlab.data.stratification import stratified_indices
from bnlab.errors import UserError

__all__ = ["Split", "Splits", "stratified_split"]


@dataclass(frozen=True)
class Split:
    """Samples x (N, *shape), float, and their classes y (N,), int64."""

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise UserError(f"A split needs as many samples as classes, but got {len(self.x)} and {len(self.y)}.")

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: torch.device) -> "Split":
        return Split(self.x.to(device), self.y.to(device))


@dataclass(frozen=True)
class Splits:
    """The three splits of one data set; `num_classes` counts the classes of y: 0, ..., num_classes - 1."""

    train: Split
    val: Split
    test: Split
    num_classes: int

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return tuple(self.train.x.shape[1:])


def stratified_split(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Cut a random `fraction` off `split`, each class in its own share; the same `seed` cuts the same samples.

    Returns:
        what remains, and what was cut off.
    Raises:
        UserError: a part that would have fewer samples than there are classes.
    """
    parts = map(torch.from_numpy, stratified_indices(split.y.numpy(), fraction, seed))
    remaining, cut = (Split(split.x[indices], split.y[indices]) for indices in parts)
    return remaining, cut
