"""A data set as tensors: its training, validation and test splits."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bnlab.data.checking import (
    as_labels,
    as_samples,
    as_targets,
    check_classes,
    check_num_classes,
    check_samples,
    check_targets,
)
from bnlab.data.stratification import stratified_indices
from bnlab.data.target_scale import AS_THEY_ARE, TargetScale
from bnlab.errors import UserError

__all__ = ["Split", "Splits", "as_splits", "stratified_split"]


@dataclass(frozen=True)
class Split:
    """Samples x (N, *shape), float32 or float64, and their labels y (N,): classes, int64, or real numbers.

    Tensors and arrays of other numbers are converted (`bnlab.data.checking`).

    Raises:
        UserError: what is neither, or not as many samples as labels.
    """

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "x", as_samples(self.x))
        object.__setattr__(self, "y", as_labels(self.y))
        if len(self.x) != len(self.y):
            raise UserError(f"A split needs as many samples as labels, but got {len(self.x)} and {len(self.y)}.")

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> "Split":
        """A copy there; `dtype` is that of samples and of real numbers."""
        return Split(self.x.to(device, dtype), self.y.to(device, dtype if self.y.is_floating_point() else None))


@dataclass(frozen=True)
class Splits:
    """The three splits of one data set. They are kept contiguous in the CPU's memory, x in float64 if one is.

    Args:
        num_classes: y are classes, 0, ..., num_classes - 1; None for a regression, where y are real numbers.
        class_names: what the classes are called, in their order; None where they have no names.
        target_scale: of the targets of a regression, which y have been through.
    Raises:
        UserError: what cannot be trained on: an empty split, samples of different shapes, values that are not finite, a
            class out of range, only one class to train on, or targets that do not vary.
    """

    train: Split
    val: Split
    test: Split
    num_classes: int | None
    class_names: tuple[str, ...] | None = None
    target_scale: TargetScale = AS_THEY_ARE

    def __post_init__(self) -> None:
        splits = {"train": self.train, "val": self.val, "test": self.test}
        for name, split in splits.items():
            if not isinstance(split, Split):
                raise UserError(
                    f"`{name}` of the data must be a bnlab.data.Split, but got an object of type "
                    f"{type(split).__name__}: Split(x, y) makes one."
                )
        check_samples({name: split.x for name, split in splits.items()})
        y_of = {name: split.y for name, split in splits.items()}
        if self.num_classes is None:
            y_of = {name: as_targets(y) for name, y in y_of.items()}
            check_targets(y_of)
        else:
            object.__setattr__(self, "num_classes", check_num_classes(self.num_classes))
            check_classes(y_of, self.num_classes)
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise UserError(
                f"`class_names` of the data must have a name for each of the {self.num_classes} classes, but has "
                f"{len(self.class_names)}."
            )
        is_double = torch.float64 in [split.x.dtype for split in splits.values()]
        for name, split in splits.items():
            x = split.x.to("cpu", torch.float64 if is_double else torch.float32).contiguous()
            object.__setattr__(self, name, Split(x, y_of[name].cpu().contiguous()))

    @property
    def task(self) -> str:
        return "regression" if self.num_classes is None else "classification"

    @property
    def num_outputs(self) -> int:
        """The width that the network's output needs."""
        return 1 if self.num_classes is None else self.num_classes

    def with_scaled_targets(self) -> "Splits":
        """Of a regression: with targets of mean 0 and deviation 1 over the training split."""
        scale = TargetScale.of(self.train.y)
        train, val, test = (Split(part.x, scale(part.y)) for part in (self.train, self.val, self.test))
        return Splits(train, val, test, None, target_scale=scale)

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
            "Splits(Split(x, y), Split(x_val, y_val), Split(x_test, y_test), num_classes) makes them; num_classes=None "
            "where y are real numbers."
        )
    return value


def stratified_split(
    split: Split, fraction: float, seed: int, class_names: Sequence[str] | None = None
) -> tuple[Split, Split]:
    """Cut a random `fraction` off `split`, each class in its own share; the same `seed` cuts the same samples.

    Args:
        class_names: what the user calls the classes, for errors.
    Returns:
        what remains, and what was cut off.
    Raises:
        UserError: a part that would have fewer samples than there are classes.
    """
    parts = map(torch.from_numpy, stratified_indices(split.y.cpu().numpy(), fraction, seed, class_names))
    remaining, cut = (Split(split.x[indices], split.y[indices]) for indices in parts)
    return remaining, cut
