"""Converts the labels of a data set: class numbers, class names or real numbers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnlab.errors import UserError

__all__ = ["MOST_CLASSES", "as_targets", "number_classes"]

MOST_CLASSES = 1000
"""A column with more distinct values most likely holds measurements or identifiers, not classes."""


def number_classes(name: str, labels: NDArray[Any]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Number the classes in the order of their names, or of their values if they are numbers.

    Args:
        name: what to call `labels` in an error.
        labels: (N,), text, booleans or whole numbers.
    Returns:
        the classes (N,), 0, 1, ..., and the name of each class.
    Raises:
        UserError: there are fractions, missing labels, a single class or more than `MOST_CLASSES`.
    """
    if labels.ndim != 1:
        raise UserError(f"{name} must have the shape (N,), a label for each sample, but got {labels.shape}.")
    if not len(labels):
        raise UserError(f"{name} must hold a label for each sample, but is empty.")
    if labels.dtype.kind == "f":
        is_whole = np.equal(np.mod(labels, 1), 0)  # false for NaN and infinity
        if not is_whole.all():
            first = int(np.argmin(is_whole))
            raise UserError(
                f"{name} must hold classes, but sample {first} has {labels[first]:g}: task=regression learns real "
                "numbers."
            )
        labels = labels.astype(np.int64)
    elif labels.dtype.kind not in "biuU":
        raise UserError(f"{name} must hold text or whole numbers, but got an array of {labels.dtype}.")
    elif labels.dtype.kind == "U" and (missing := np.char.strip(labels) == "").any():
        raise UserError(
            f"{name} must have a label for each sample, but {int(missing.sum())} are empty, the first in sample "
            f"{int(np.argmax(missing))}: leave such samples out."
        )
    found, classes = np.unique(labels, return_inverse=True)
    if len(found) == 1:
        raise UserError(f"{name} must hold at least 2 classes, but all samples are of {str(found[0])!r}.")
    if len(found) > MOST_CLASSES:
        raise UserError(
            f"{name} must hold at most {MOST_CLASSES} classes, but got {len(found)} different values: task=regression "
            "learns real numbers."
        )
    return classes.astype(np.int64), tuple(str(value) for value in found)


def as_targets(name: str, labels: NDArray[Any]) -> NDArray[np.float64]:
    """Convert the targets of a regression to (N,), float64.

    Raises:
        UserError: they are text, or there is more than one number per sample.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise UserError(f"{name} must have the shape (N,), a number for each sample, but got {labels.shape}.")
    if labels.dtype.kind not in "biuf":
        raise UserError(
            f"{name} must hold numbers with task=regression, but got {_example(labels)}: task=classification learns "
            "classes."
        )
    return labels.astype(np.float64)


def _example(labels: NDArray[Any]) -> str:
    return repr(str(labels[0])) if labels.dtype.kind == "U" and len(labels) else f"an array of {labels.dtype}"
