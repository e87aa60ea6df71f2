"""Errors that a training did not cause: a full disk, a lost database, a limit of processes, a kill."""

import errno
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bnlab.process.process_limit import is_process_limit

__all__ = ["is_outside", "wait_for_room"]

_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOMEM, errno.ESTALE}
# Compared by name, so that nobody has to import their libraries.
_CLASSES = {
    "sqlalchemy.exc.OperationalError",
    "sqlalchemy.exc.InterfaceError",
    "optuna.exceptions.StorageInternalError",
}
_TORCH_CANNOT_WRITE = "PytorchStreamWriter failed writing file"  # from torch.save, which does not say why

_ROOM = 1 << 16  # bytes that must fit into a folder before a training begins there
_POLL_S = 0.2


def is_outside(error: BaseException | None) -> bool:
    """Whether `error` or a cause of it came from outside the training, which may then succeed at another time.

    An error can declare it by an attribute `is_outside`.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if getattr(error, "is_outside", False) is True:
            return True
        if isinstance(error, OSError) and error.errno in _ERRORS:
            return True
        if any(f"{kind.__module__}.{kind.__qualname__}" in _CLASSES for kind in type(error).__mro__):
            return True
        if is_process_limit(error) or (type(error) is RuntimeError and _TORCH_CANNOT_WRITE in str(error)):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def wait_for_room(folder: Path, seconds: float, is_over: Callable[[], bool] = lambda: False) -> OSError | None:
    """Wait until files can be written to `folder`, for up to `seconds`, or until `is_over`.

    Returns:
        the last error, if none could be written.
    """
    deadline = time.monotonic() + seconds
    while (error := _try(folder)) is not None and time.monotonic() < deadline and not is_over():
        time.sleep(_POLL_S)
    return error


def _try(folder: Path) -> OSError | None:
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            left = _ROOM
            while left:
                left -= os.write(file.fileno(), bytes(left))
    except OSError as error:
        return error
    return None
