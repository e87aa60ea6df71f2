"""The name of a folder of results, which every file and terminal must be able to show."""

import os
from pathlib import Path

from bnlab.errors import UserError
from bnlab.text.command_line import shown

__all__ = ["require_readable_name"]


def require_readable_name(folder: Path) -> None:
    """Check that the path of `folder`, as it is shown, is valid UTF-8.

    Raises:
        UserError: it is not.
    """
    name = os.fsencode(shown(folder))
    readable = name.decode("utf-8", "backslashreplace")
    if readable.encode() != name:
        raise UserError(f"A folder for results must have a name in UTF-8, but got '{readable}': choose another.")
