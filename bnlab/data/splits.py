"""The training, validation and test splits of a data set, as tensors."""

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

    Tensors and arrays of other types are converted (`bnlab.data.checking`).

    Raises:
        UserError: one cannot be converted, or the numbers of samples and labels differ.
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
        """Copy to `device`; `dtype` applies to samples and to labels that are real numbers."""
        return Split(self.x.to(device, dtype), self.y.to(device, dtype if self.y.is_floating_point() else None))


@dataclass(frozen=True)
class Splits:
    """The three splits of one data set, contiguous in CPU memory; if x of one is float64, all are.

    Args:
        num_classes: the number of classes in y, 0, ..., num_classes - 1; None for a regression, with real numbers.
        class_names: the names of the classes in order, or None.
        target_scale: the scale that has been applied to y in a regression.
    Raises:
        UserError: they cannot be trained on: a split is empty, shapes differ between splits, values are not finite, a
            class is out of range, there is only one class to train on, or the targets do not vary.
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
        """Return the required width of the network's output."""
        return 1 if self.num_classes is None else self.num_classes

    def with_scaled_targets(self) -> "Splits":
        """For a regression, return splits whose targets have mean 0 and deviation 1 over the training split."""
        scale = TargetScale.of(self.train.y)
        train, val, test = (Split(part.x, scale(part.y)) for part in (self.train, self.val, self.test))
        return Splits(train, val, test, None, target_scale=scale)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return tuple(self.train.x.shape[1:])


def as_splits(value: object) -> Splits:
    """Check that `value` is a `Splits`.

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
    """Cut a random `fraction` off `split`, stratified by class; the same `seed` cuts off the same samples.

    Args:
        class_names: the user's names of the classes, for errors.
    Returns:
        the remaining split, and the one that was cut off.
    Raises:
        UserError: a part would have fewer samples than there are classes.
    """
    parts = map(torch.from_numpy, stratified_indices(split.y.cpu().numpy(), fraction, seed, class_names))
    remaining, cut = (Split(split.x[indices], split.y[indices]) for indices in parts)
    return remaining, cut
