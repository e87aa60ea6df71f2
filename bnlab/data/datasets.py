"""The data sets of scikit-learn and torchvision, read once and converted to tensors in memory."""

import contextlib
import importlib.util
import inspect
import io
import pickle
import socket
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bnlab.data.checking import check_classes, check_samples
from bnlab.data.parts import cut
from bnlab.data.splits import Split, Splits, stratified_split
from bnlab.errors import UserError, one_line

__all__ = ["digits", "from_torchvision"]

DOWNLOAD_TIMEOUT_S = 30.0

_SIGNS_OF_DAMAGE = (
    *(ValueError, AssertionError, EOFError, IndexError, KeyError, RuntimeError, TypeError),
    pickle.UnpicklingError,
)


def digits(*, val_fraction: float = 0.2, test_fraction: float = 0.2, split_seed: int = 0) -> Splits:
    """Load 1,797 handwritten digits of 8 x 8 pixels in [0, 1], shipped with scikit-learn; stratified random splits.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
    """
    table = torch.from_numpy(_digits_table())
    whole = Split(table[:, :-1].float().div_(16).reshape(-1, 1, 8, 8), table[:, -1].long())
    return cut(whole, 10, val_fraction=val_fraction, test_fraction=test_fraction, split_seed=split_seed)


def _digits_table() -> NDArray[np.uint8]:
    """Replaces scikit-learn's `load_digits`, whose import slows every start; delete when that import is cheap.

    Figures: bnlab/bench/records/library_functions.md.

    Returns:
        (1797, 65): the 64 pixels of an image in 0, ..., 16, row by row, and its class.
    """
    package = importlib.util.find_spec("sklearn")
    for folder in package.submodule_search_locations or () if package else ():
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            return np.loadtxt(file, delimiter=",", dtype=np.uint8)
    from sklearn.datasets import load_digits  # in a version that stores the file elsewhere

    return np.column_stack(load_digits(return_X_y=True)).astype(np.uint8)


def from_torchvision(name: str, *, root: str, val_fraction: float = 0.1, split_seed: int = 0) -> Splits:
    """Load a data set of `torchvision.datasets` that fits in memory, with its published test set.

    Args:
        name: MNIST, FashionMNIST, KMNIST, CIFAR10, or another that has `data` and `targets`.
        root: the folder that holds the files as torchvision lays them out, or where they are downloaded to.
        val_fraction: the share of the training set that becomes the validation set, stratified.
    Raises:
        UserError: the files are missing and cannot be downloaded, cannot be read, or contain something else.
    """
    published = [_read(name, Path(root), train=train) for train in (True, False)]
    num_classes = len(published[0].classes)
    try:
        rest, test = map(_as_split, published)
        check_samples({"train": rest.x, "test": test.x})
        check_classes({"train": rest.y, "test": test.y}, num_classes)
    except UserError as error:
        raise _damaged(type(published[0]), Path(root), error) from error
    train, val = stratified_split(rest, val_fraction, split_seed)
    return Splits(train, val, test, num_classes)


class _NotThereError(Exception):
    pass


def _read(name: str, root: Path, *, train: bool) -> Any:
    from torchvision import datasets

    data_set = getattr(datasets, name, None)
    if not isinstance(data_set, type) or "train" not in inspect.signature(data_set).parameters:
        raise UserError(
            f"`data.name` must be a class of torchvision.datasets with a training and a test set, but got {name!r}."
        )
    try:
        return _open(data_set, root, train=train, download=False)
    except _NotThereError:
        pass
    try:
        return _open(data_set, root, train=train, download=True)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{name} is not in `data.root`={str(root)!r} and could not be downloaded there: set data.root to a folder "
            f"that holds it, or connect to the network ({one_line(error)})."
        ) from error


def _open(data_set: Any, root: Path, *, train: bool, download: bool) -> Any:
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)  # torchvision sets none, and would wait for a silent server forever
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # torchvision prints each failed mirror
            return data_set(root, train=train, download=download)
    except _SIGNS_OF_DAMAGE as error:
        if download or "not found" in str(error):
            raise _NotThereError(one_line(error)) from error
        raise _damaged(data_set, root, error) from error
    finally:
        socket.setdefaulttimeout(timeout)


def _damaged(data_set: Any, root: Path, error: BaseException) -> UserError:
    files = root / getattr(data_set, "base_folder", data_set.__name__)
    return UserError(
        f"{data_set.__name__} in `data.root`={str(root)!r} cannot be read, a file of it is damaged or of another data "
        f"set ({one_line(error)}): delete {str(files)!r} to have it downloaded again."
    )


def _as_split(published: Any) -> Split:
    pixels = torch.as_tensor(np.asarray(published.data))
    # (N, H, W) or (N, H, W, channels) in 0..255 becomes (N, channels, H, W) in [0, 1]
    pixels = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    return Split(pixels.contiguous().float().div_(255), torch.as_tensor(published.targets).long())
