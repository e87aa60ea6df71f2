"""Chooses the output files of a command: in a new folder or where the user asks, never overwriting silently."""

import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bnlab.errors import UserError
from bnlab.text.command_line import shown

__all__ = ["PICTURES", "new_folder", "places", "targets"]

PICTURES = (".png", ".svg", ".pdf")


def new_folder(kind: str) -> Path:
    """Return a new, unique folder name in outputs/`kind`, with date and time as for runs."""
    now = time.localtime()
    folder = Path("outputs", kind, time.strftime("%Y-%m-%d", now))
    return folder / f"{time.strftime('%H-%M-%S', now)}-{secrets.token_hex(3)}"


def targets(outputs: Sequence[Path], names: Sequence[str], *, overwrite: bool = False) -> list[Path]:
    """Return the files to write: each of `outputs` itself or, if it is a folder, the files called `names` in it.

    Raises:
        UserError: none of `names` has the suffix of a file, or a file exists, unless `overwrite`.
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
            raise UserError(f"{str(file)!r} exists already: choose another name, or add --overwrite to replace it.")
    return files


def places(files: Sequence[Path]) -> Iterator[str]:
    """Describe the files by one line per folder."""
    for folder in dict.fromkeys(file.parent for file in files):
        yield f"{shown(folder)}: {', '.join(file.name for file in files if file.parent == folder)}"
