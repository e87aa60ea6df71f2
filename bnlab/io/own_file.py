"""Read a user's data file."""

from pathlib import Path

from bnlab.errors import UserError
from bnlab.io.stored_file import read_bytes

__all__ = ["read_own_file", "require_own_file"]

_MOST_BYTES = 1 << 34  # memory holds several copies of the file


def read_own_file(path: str) -> bytes:
    """Read the file at `data.path`.

    Raises:
        UserError: it does not exist, is no file, or cannot be read.
    """
    try:
        return read_bytes(Path(path).expanduser(), _MOST_BYTES)
    except FileNotFoundError:
        require_own_file(path)
        raise
    except (OSError, ValueError) as error:
        told = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"`data.path`={path!r} cannot be read: {told}.") from error


def require_own_file(path: str) -> None:
    """Check that `data.path` exists.

    Raises:
        UserError: it does not.
    """
    if not Path(path).expanduser().exists():
        raise UserError(f"`data.path`={path!r} does not exist; it is looked for in {str(Path.cwd())!r}.")
