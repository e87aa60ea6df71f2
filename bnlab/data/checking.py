"""Checks data when they are loaded, so that all ways of training get checked data."""

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bnlab.errors import UserError

__all__ = [
    "as_labels",
    "as_samples",
    "as_targets",
    "check_classes",
    "check_num_classes",
    "check_samples",
    "check_targets",
]

_LARGEST = torch.finfo(torch.float32).max


def as_samples(x: object) -> Tensor:
    """Convert a tensor or an array of real numbers to samples (N, features, ...), float32 or float64.

    float64 and integers of at least 32 bits become float64; all others become float32, which represents them exactly.

    Raises:
        UserError: they are not real numbers, or not samples with at least one feature.
    """
    x = _as_tensor("x", x)
    if x.is_complex():
        raise UserError(
            f"`x` of a split must be real, but got {_name(x.dtype)}: torch.view_as_real(x) makes two features of each."
        )
    if x.dim() < 2:
        raise UserError(
            f"`x` of a split must have the shape (N, features, ...), but got {tuple(x.shape)}: x.reshape(-1, 1) gives "
            "each sample one feature."
        )
    if 0 in x.shape[1:]:
        raise UserError(f"`x` of a split must have at least one feature, but got the shape {tuple(x.shape)}.")
    is_exact = x.dtype.itemsize < 4 or x.dtype == torch.float32
    return x.to(torch.float32 if is_exact else torch.float64)


def as_labels(y: object) -> Tensor:
    """Convert to labels (N,): integers and booleans to classes, int64; real numbers to float32 or float64 targets.

    Raises:
        UserError: they have another form.
    """
    y = _as_tensor("y", y)
    if y.dim() != 1:
        way_out = "y.argmax(1) gives the classes of one-hot rows" if y.dim() == 2 and y.shape[1] > 1 else "y.flatten()"
        raise UserError(
            f"`y` of a split must have the shape (N,), a class or a number for each sample, but got {tuple(y.shape)}: "
            f"{way_out}."
        )
    if y.is_complex():
        raise UserError(f"`y` of a split must be real, but got {_name(y.dtype)}: y.real gives the real part.")
    if y.is_floating_point():
        return y if y.dtype == torch.float32 else y.to(torch.float64)
    return y.to(torch.int64)


def as_targets(y: Tensor) -> Tensor:
    """Convert labels to the targets of a regression, float64."""
    return y.to(torch.float64)


def check_num_classes(num_classes: Any) -> int:
    """Check the number of classes.

    Raises:
        UserError: it is not a whole number, or below 2.
    """
    is_whole = hasattr(num_classes, "__index__") and not isinstance(num_classes, bool)
    if not is_whole or operator.index(num_classes) < 2:
        raise UserError(f"`num_classes` of the data must be a whole number >= 2, but got {num_classes!r}.")
    return operator.index(num_classes)


def check_samples(x_of: Mapping[str, Tensor]) -> None:
    """Check that the samples of all splits have one shape, and that every value can be trained on.

    Raises:
        UserError: a split is empty, shapes differ, or values are NaN, infinite or too large.
    """
    (first, train), *_ = x_of.items()
    for name, x in x_of.items():
        if len(x) == 0:
            raise UserError(f"`{name}` of the data must have samples, but is empty.")
        if x.shape[1:] != train.shape[1:]:
            raise UserError(
                f"`{name}.x` of the data must have samples of the shape {tuple(train.shape[1:])}, as `{first}.x` has, "
                f"but got {tuple(x.shape[1:])}."
            )
        if not _is_sound(x):
            _check_values(name, x)


def check_classes(y_of: Mapping[str, Tensor], num_classes: int) -> None:
    """Check the classes of each split against `num_classes`.

    Raises:
        UserError: a class is outside 0, ..., num_classes - 1, or the first split (training) has a single class.
    """
    for name, y in y_of.items():
        if y.is_floating_point():
            raise UserError(
                f"`{name}.y` of the data must hold classes, which are integers, but got real numbers: y.long() "
                "makes integers of numbers that are whole, and num_classes=None says that real numbers are to be "
                "predicted."
            )
    bounds = {name: tuple(map(int, y.aminmax())) for name, y in y_of.items()}
    for name, (low, high) in bounds.items():
        if low < 0 or high >= num_classes:
            raise UserError(
                f"`{name}.y` of the data must be in 0 .. {num_classes - 1}, as num_classes is {num_classes}, but has "
                f"{low if low < 0 else high}: {_way_out([*bounds.values()], num_classes)}."
            )
    (name, (low, high)), *_ = bounds.items()
    if low == high:
        raise UserError(f"`{name}.y` of the data must have samples of at least 2 classes, but all are of class {low}.")


def check_targets(y_of: Mapping[str, Tensor]) -> None:
    """Check that the targets of a regression can be predicted and measured.

    Raises:
        UserError: targets are not finite, too large, or equal for all samples of a split, whose R^2 would be 0/0.
    """
    for name, y in y_of.items():
        is_bad = ~(y.abs() <= _LARGEST)
        if is_bad.any():
            first = int(is_bad.nonzero()[0])
            raise UserError(
                f"`{name}.y` of the data must hold numbers that float32 holds, but {int(is_bad.sum())} of "
                f"{len(y)} are not, the first in sample {first}, {float(y[first]):g}: leave such samples out."
            )
        if len(y) == 1:
            raise UserError(
                f"`{name}` of the data must have at least 2 samples for task=regression, as R^2 of a single one is 0/0."
            )
        low, high = map(float, y.aminmax())
        if low == high:
            raise UserError(
                f"`{name}.y` of the data must vary, but all {len(y)} targets are {low:g}: there is nothing to predict."
            )


def _way_out(bounds: Sequence[tuple[int, ...]], num_classes: int) -> str:
    lowest, highest = min(low for low, _ in bounds), max(high for _, high in bounds)
    if lowest == 1 and highest == num_classes:
        return "classes count from 0, so subtract 1 from every y"
    if lowest < 0:
        return "no class is ignored, so leave samples without one out"
    return f"num_classes={highest + 1} would count them all"


def _is_sound(x: Tensor) -> bool:
    """Whether every value is sound, checked in one pass; a float32 sum could overflow although each term is sound."""
    if x.dtype == torch.float32:
        return bool(x.sum().isfinite())
    low, high = x.aminmax()  # NaN if any value is, for which the comparisons fail
    return max(-float(low), float(high)) <= _LARGEST and not low.isnan()


def _check_values(name: str, x: Tensor) -> None:
    of_sample = x.flatten(1)
    is_bad = ~of_sample.isfinite()
    if is_bad.any():
        num_nan = int(of_sample.isnan().sum())
        raise UserError(
            f"`{name}.x` of the data must be finite, but of its {x.numel()} values {num_nan} are NaN and "
            f"{int(is_bad.sum()) - num_nan} infinite, the first in sample {int(is_bad.any(1).nonzero()[0])}: leave "
            "such samples out, or fill the values in."
        )
    low, high = x.aminmax()
    largest = max(-float(low), float(high))
    if largest > _LARGEST:
        raise UserError(
            f"`{name}.x` of the data must stay within float32, whose largest number is {_LARGEST:.2g}, but has a value "
            f"of magnitude {largest:.2g}: scale it down."
        )


def _as_tensor(name: str, values: object) -> Tensor:
    """Convert to a plain, strided tensor, detached from any autograd graph."""
    if isinstance(values, Tensor):
        if values.layout != torch.strided or values.is_meta or values.is_nested:
            raise UserError(
                f"`{name}` of a split must be an ordinary dense tensor, but got a tensor of {_kind(values)}: "
                f"{name}.to_dense() makes one of a sparse one."
            )
        values = values.detach().as_subclass(Tensor).resolve_neg().resolve_conj()
        # Autograd refuses to save a tensor that was created in inference mode.
        return values.clone() if values.is_inference() else values
    if not hasattr(values, "__array__"):
        raise UserError(
            f"`{name}` of a split must be a tensor or an array, but got {_article(values)}: "
            f"torch.as_tensor({name}) makes a tensor of numbers in lists."
        )
    if np.ma.isMaskedArray(values):
        raise UserError(f"`{name}` of a split must be a plain array, but got a masked one: fill the masked values in.")
    array = np.asarray(values)
    if array.dtype.kind not in "biufc":
        raise UserError(
            f"`{name}` of a split must hold numbers, but got an array of {array.dtype}: "
            f"numpy.unique({name}, return_inverse=True) replaces names by numbers."
        )
    if array.dtype.kind == "f" and array.itemsize > 8:
        array = array.astype(np.float64)
    # torch accepts neither foreign byte orders nor negative strides, and warns about read-only arrays.
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))


def _kind(values: Tensor) -> str:
    if values.is_nested:
        return "nested tensors"
    if values.is_meta:
        return "device meta, which holds no values"
    return f"layout {_name(values.layout)}"


def _name(of_torch: Any) -> str:
    return str(of_torch).removeprefix("torch.")


def _article(value: object) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"
