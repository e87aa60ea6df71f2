"""A data set as tensors: training, validation and test split."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bnlab.data.checking import as_classes, as_samples, check_classes, check_num_classes, check_samples
from bnlab.data.stratification import stratified_indices
from bnlab.errors import UserError

__all__ = ["Split", "Splits", "as_splits", "stratified_split"]


@dataclass(frozen=True)
class Split:
    """Samples x (N, *shape), float32 or float64, and their classes y (N,), int64.

    Tensors and arrays of other numbers are converted (`bnlab.data.checking`).

    Raises:
        UserError: what is neither, or not as many samples as classes.
    """

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "x", as_samples(self.x))
        object.__setattr__(self, "y", as_classes(self.y))
        if len(self.x) != len(self.y):
            raise UserError(f"A split needs as many samples as classes, but got {len(self.x)} and {len(self.y)}.")

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> "Split":
        return Split(self.x.to(device, dtype), self.y.to(device))


@dataclass(frozen=True)
class Splits:
    """The three splits of one data set; `num_classes` counts the classes of y: 0, ..., num_classes - 1.

    They are kept contiguous in the CPU's memory, all in float64 if one is.

    Raises:
        UserError: what cannot be trained on: an empty split, samples of different shapes, values that are not finite, a
            class out of range, or only one class to train on.
    """

    train: Split
    val: Split
    test: Split
    num_classes: int

    def __post_init__(self) -> None:
        splits = {"train": self.train, "val": self.val, "test": self.test}
        for name, split in splits.items():
            if not isinstance(split, Split):
                raise UserError(
                    f"`{name}` of the data must be a bnlab.data.Split, but got an object of type "
                    f"{type(split).__name__}: Split(x, y) makes one."
                )
        object.__setattr__(self, "num_classes", check_num_classes(self.num_classes))
        check_samples({name: split.x for name, split in splits.items()})
        check_classes({name: split.y for name, split in splits.items()}, self.num_classes)
        is_double = torch.float64 in [split.x.dtype for split in splits.values()]
        for name, split in splits.items():
            x = split.x.to("cpu", torch.float64 if is_double else torch.float32).contiguous()
            object.__setattr__(self, name, Split(x, split.y.cpu().contiguous()))

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return tuple(self.train.x.shape[1:])


def as_splits(value: object) -> Splits:
    """
    Raises:
        UserError: it is something else.
    """
    if not isinstance(value, Splits):
        raise UserError(
            f"The data must be bnlab.data.Splits, but got an object of type {type(value).__name__}: "
            "Splits(Split(x, y), Split(x_val, y_val), Split(x_test, y_test), num_classes) makes them."
        )
    return value


def stratified_split(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Cut a random `fraction` off `split`, each class in its own share; the same `seed` cuts the same samples.

    Returns:
        what remains, and what was cut off.
    Raises:
        UserError: a part that would have fewer samples than there are classes.
    """
    parts = map(torch.from_numpy, stratified_indices(split.y.cpu().numpy(), fraction, seed))
    remaining, cut = (Split(split.x[indices], split.y[indices]) for indices in parts)
    return remaining, cut
