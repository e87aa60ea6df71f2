"""Where a command writes: a new folder, or files that replace nothing unasked."""

import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bnlab.errors import UserError
from bnlab.text.command_line import shown

__all__ = ["PICTURES", "new_folder", "places", "targets"]

PICTURES = (".png", ".svg", ".pdf")


def new_folder(kind: str) -> Path:
    """In outputs/`kind`, as those of runs: by date and time, and no other's."""
    now = time.localtime()
    folder = Path("outputs", kind, time.strftime("%Y-%m-%d", now))
    return folder / f"{time.strftime('%H-%M-%S', now)}-{secrets.token_hex(3)}"


def targets(outputs: Sequence[Path], names: Sequence[str], *, overwrite: bool = False) -> list[Path]:
    """The files that `outputs` ask for: themselves, or those called `names` in a folder.

    Raises:
        UserError: an ending that none of `names` has; a file that is there, unless `overwrite`.
    """
    endings = list(dict.fromkeys(Path(name).suffix for name in names))
    files = []
    for output in outputs:
        if not output.suffix or output.is_dir():
            files += [output / name for name in names]
        elif output.suffix in endings:
            files.append(output)
        else:
            raise UserError(
                f"`--output` must end with one of {', '.join(endings)}, or be a folder, but got {str(output)!r}."
            )
    for file in files:
        if file.exists() and not overwrite:
            raise UserError(f"{str(file)!r} is there already: choose another name, or say --overwrite to replace it.")
    return files


def places(files: Sequence[Path]) -> Iterator[str]:
    """A line for each folder of the files, with their names."""
    for folder in dict.fromkeys(file.parent for file in files):
        yield f"{shown(folder)}: {', '.join(file.name for file in files if file.parent == folder)}"
