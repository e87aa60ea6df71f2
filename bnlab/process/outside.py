"""What ends a training for reasons that are not its own: a full disk, a lost database, a limit of processes, a kill."""

import errno
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bnlab.process.process_limit import is_process_limit

__all__ = ["is_outside", "wait_for_room"]

_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOMEM, errno.ESTALE}
# By their names: whoever raised one has imported its library, which nobody else has to.
_CLASSES = {
    "sqlalchemy.exc.OperationalError",
    "sqlalchemy.exc.InterfaceError",
    "optuna.exceptions.StorageInternalError",
}
_TORCH_CANNOT_WRITE = "PytorchStreamWriter failed writing file"  # torch.save, which does not say why

_ROOM = 1 << 16  # bytes that a folder is to take before a training begins in it
_POLL_S = 0.2


def is_outside(error: BaseException | None) -> bool:
    """Whether `error`, or what it was raised from, says so: the same training may go well at another time.

    An error can say so itself, by an attribute `is_outside`.
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
        why they cannot, after all that.
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
