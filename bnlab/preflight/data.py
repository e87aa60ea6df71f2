"""Check that the data exist and suffice for a batch."""

import math
import os
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bnlab.data_sets import DataSet, Published, data_set_of
from bnlab.errors import UserError
from bnlab.io.own_file import require_own_file
from bnlab.preflight.targets import is_mentioned

__all__ = ["check_data", "num_training_samples"]

_IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_CIFAR10 = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")
PATIENCE_S = 1.0
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def check_data(settings: Mapping[str, Any]) -> None:
    """Check the settings under `data`.

    Raises:
        UserError: a published data set is missing and cannot be downloaded, the validation and test parts leave nothing
            to train on, or a batch is larger than the training part.
    """
    data = settings["data"]
    known = data_set_of(data)
    if isinstance(known, DataSet) and known.num_samples is not None:
        val, test = _fractions(data)
        if val + test >= 1:
            raise UserError(f"`data.val_fraction` + `data.test_fraction` must stay below 1, but got {val} + {test}.")
    elif data.get("_target_") == "bnlab.data.from_torchvision":
        name = data.get("name")
        if known is None and not (isinstance(name, str) and is_mentioned("torchvision.datasets", name)):
            raise UserError(
                f"`data.name` must be a class of torchvision.datasets with a training and a test set, but got {name!r}."
            )
    elif data.get("_target_") in ("bnlab.data.from_csv", "bnlab.data.from_npz") and isinstance(data.get("path"), str):
        require_own_file(data["path"])
    num_samples = num_training_samples(data)
    if num_samples is not None:
        _check_batch_size(data["batch_size"], num_samples)
    if isinstance(known, Published) and isinstance(data.get("root"), str):
        _check_files(data["name"], Path(data["root"]), known.hosts)


def num_training_samples(data: Any) -> int | None:
    """Return the number of training samples, as far as the settings of a data set determine it, else None."""
    known = data_set_of(data)
    if known is None or known.num_samples is None:
        return None
    if isinstance(known, Published):
        return known.num_samples - math.ceil(data.get("val_fraction", 0.1) * known.num_samples)
    val, test = _fractions(data)
    rest = known.num_samples - math.ceil(test * known.num_samples)
    return rest - math.ceil(val / (1 - test) * rest)


def _fractions(data: Mapping[str, Any]) -> tuple[float, float]:
    """Return the fractions for validation and test, as far as they are cut off here."""
    return data.get("val_fraction", 0.2), data.get("test_fraction", 0.2)


def _check_batch_size(batch_size: int | str, num_samples: int) -> None:
    if batch_size != "full" and int(batch_size) > num_samples > 0:
        raise UserError(
            f"`data.batch_size` must be between 1 and the {num_samples} samples of the training set, but got "
            f"{batch_size}; `full` takes all of them as one batch."
        )


def _check_files(name: str, root: Path, hosts: tuple[str, ...]) -> None:
    if _files_exist(name, root):
        return
    reason = _why_not_writable(root) or _why_unreachable(hosts)
    if reason is not None:
        raise UserError(
            f"{name} is not in `data.root`={str(root)!r} and could not be downloaded there: set data.root to a folder "
            f"that holds it, or connect to the network ({reason})."
        )


def _files_exist(name: str, root: Path) -> bool:
    """Whether the files of the data set exist, unpacked or not."""
    if name == "CIFAR10":
        unpacked = all((root / "cifar-10-batches-py" / file).exists() for file in _CIFAR10)
        return unpacked or (root / "cifar-10-python.tar.gz").exists()
    raw = root / name / "raw"
    return all((raw / file).exists() or (raw / f"{file}.gz").exists() for file in _IDX)


def _why_not_writable(root: Path) -> str | None:
    for folder in (root, *root.absolute().parents):
        if folder.exists():
            if not folder.is_dir():
                return f"{str(folder)!r} is no folder"
            return None if os.access(folder, os.W_OK | os.X_OK) else f"{str(folder)!r} cannot be written"
    return None


def _why_unreachable(hosts: tuple[str, ...]) -> str | None:
    """Return why none of the hosts answers; None if one does, if the answer takes too long, or with a proxy."""
    if any(os.environ.get(name) for name in _PROXIES):
        return None
    reasons: list[str] = []

    def reach(host: str) -> None:
        try:
            with socket.create_connection((host, 80), timeout=PATIENCE_S):
                pass
        except TimeoutError:
            pass
        except OSError as error:
            reasons.append(f"{host}: {error.strerror or error}")

    threads = [threading.Thread(target=reach, args=[host], daemon=True) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    return "; ".join(reasons) if len(reasons) == len(hosts) else None
