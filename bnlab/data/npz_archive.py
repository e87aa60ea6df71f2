"""Reads a data set from arrays that `numpy.savez` wrote."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bnlab.data.labels import as_targets, number_classes
from bnlab.data.parts import cut, cut_off
from bnlab.data.splits import Split, Splits
from bnlab.errors import UserError, one_line
from bnlab.io.own_file import read_own_file

__all__ = ["from_npz"]

_WHOLE = ("x", "y")
_PARTS = ("x_train", "y_train", "x_test", "y_test")
_VALIDATION = ("x_val", "y_val")


def from_npz(
    path: str,
    *,
    task: str = "classification",
    val_fraction: float = 0.2,
    test_fraction: float = 0.2,
    split_seed: int = 0,
) -> Splits:
    """Read the arrays of an .npz file: x and y, or x_train, y_train, x_test, y_test and perhaps x_val, y_val.

    x is (N, features, ...). y (N,) holds classes as text or whole numbers, which are numbered in the order of their
    names, or real numbers. Parts that the file lacks are cut off at random, stratified if classes are learned.
    Python objects in the file are never unpickled.

    Args:
        path: the path of the file.
        task: "classification", or "regression" to predict real numbers.
        val_fraction: a share of all samples, or of the file's training part.
        test_fraction: a share of all samples.
        split_seed: determines which samples go to which part.
    Raises:
        UserError: it is not such a file.
    """
    name = Path(path).name
    arrays = _arrays(name, read_own_file(path))
    parts = [key.removeprefix("x_") for key in ("x_train", "x_val", "x_test") if key in arrays]
    with_validation = (*_PARTS, *_VALIDATION) if any(key in arrays for key in _VALIDATION) else _PARTS
    needed = with_validation if parts else _WHOLE
    missing = [key for key in needed if key not in arrays]
    if missing:
        raise UserError(
            f"{name} must hold x and y, or x_train, y_train, x_test, y_test and perhaps x_val, y_val, but lacks "
            f"{', '.join(missing)}: it has {', '.join(arrays) or 'no array'}."
        )
    y_of, class_names = _labels(name, {key: arrays[key] for key in needed if key.startswith("y")}, task)
    num_classes = None if class_names is None else len(class_names)
    split_of = {key: Split(_samples(name, f"x{key[1:]}", arrays), y) for key, y in y_of.items()}
    if not parts:
        return cut(
            split_of["y"],
            num_classes,
            class_names=class_names,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            split_seed=split_seed,
        )
    train, test = split_of["y_train"], split_of["y_test"]
    if "y_val" in split_of:
        return Splits(train, split_of["y_val"], test, num_classes, class_names)
    train, val = cut_off(train, val_fraction, split_seed, class_names)
    return Splits(train, val, test, num_classes, class_names)


def _arrays(name: str, content: bytes) -> dict[str, NDArray[Any]]:
    try:
        archive = np.load(io.BytesIO(content), allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise UserError(f"{name} holds a single array, but x and y are needed: numpy.savez(path, x=x, y=y).")
        return {key: _array(name, archive, key) for key in archive.files}
    except UserError:
        raise
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{name} cannot be read as arrays ({one_line(error)}): numpy.savez(path, x=x, y=y) writes them."
        ) from error


def _array(name: str, archive: Any, key: str) -> NDArray[Any]:
    try:
        array: NDArray[Any] = archive[key]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise UserError(
            f"{key} of {name} is an array of Python objects, which are never unpickled: {key}.astype(str) makes text "
            f"of them, {key}.astype(float) numbers."
        ) from error
    return array


def _samples(name: str, key: str, arrays: Mapping[str, NDArray[Any]]) -> torch.Tensor:
    x = arrays[key]
    if x.dtype.kind not in "biuf":
        raise UserError(f"{key} of {name} must hold real numbers, but got an array of {x.dtype}.")
    return torch.from_numpy(np.require(x, x.dtype.newbyteorder("="), ["C", "W"]))


def _labels(
    name: str, y_of: Mapping[str, NDArray[Any]], task: str
) -> tuple[dict[str, torch.Tensor], tuple[str, ...] | None]:
    """Return the labels of each part, with common class numbers, and the class names, or None for real numbers."""
    if task == "regression":
        return {key: torch.from_numpy(as_targets(f"{key} of {name}", y)) for key, y in y_of.items()}, None
    for key, y in y_of.items():
        if y.ndim == 2 and y.shape[1] > 1:
            raise UserError(f"{key} of {name} must have the shape (N,), but got {y.shape}: {key}.argmax(1) of one-hot.")
    flat = {key: y.reshape(-1) if y.ndim == 2 else y for key, y in y_of.items()}
    classes, names = number_classes(f"{' and '.join(flat)} of {name}", np.concatenate([*flat.values()]))
    ends = np.cumsum([len(y) for y in flat.values()])[:-1]
    return dict(zip(flat, map(torch.from_numpy, np.split(classes, ends)), strict=True)), names
