"""The name of a folder that results go to: every file and terminal has to be able to hold it."""

import os
from pathlib import Path

from bnlab.errors import UserError
from bnlab.text.command_line import shown

__all__ = ["require_readable_name"]


def require_readable_name(folder: Path) -> None:
    """
    Raises:
        UserError: the path, as it is shown, has bytes that are no UTF-8.
    """
    name = os.fsencode(shown(folder))
    readable = name.decode("utf-8", "backslashreplace")
    if readable.encode() != name:
        raise UserError(f"A folder for results must have a name in UTF-8, but got '{readable}': choose another.")
