"""Where a comparison goes: the terminal, and files that replace nothing unasked."""

import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from bnlab.atomic_file import write_bytes, write_text
from bnlab.command_line import shown
from bnlab.comparison.comparison import Comparison
from bnlab.comparison.formats import FORMATS, SUFFIXES
from bnlab.comparison.screen import on_screen
from bnlab.errors import UserError, user_errors

__all__ = ["new_folder", "show", "targets", "write"]

PICTURES = (".png", ".svg", ".pdf")
_NAMES = (*(f"curves{suffix}" for suffix in PICTURES), *(f"table{suffix}" for suffix in SUFFIXES))
_WIDTH_OF_A_FILE = 160  # of what is not read on a terminal


def new_folder() -> Path:
    """As those of runs: by date and time, and no other's."""
    now = time.localtime()
    folder = Path("outputs", "comparisons", time.strftime("%Y-%m-%d", now))
    return folder / f"{time.strftime('%H-%M-%S', now)}-{secrets.token_hex(3)}"


def targets(outputs: Sequence[Path], *, overwrite: bool = False) -> list[Path]:
    """The files that `outputs` ask for: themselves, or all six in a folder.

    Raises:
        UserError: an ending that is none of theirs; a file that is there, unless `overwrite`.
    """
    files = []
    for output in outputs:
        if output.suffix in (*PICTURES, *SUFFIXES) and not output.is_dir():
            files.append(output)
        elif output.suffix and not output.is_dir():
            raise UserError(
                f"`--output` must end with one of {', '.join((*PICTURES, *SUFFIXES))}, or be a folder, but got "
                f"{str(output)!r}."
            )
        else:
            files += [output / name for name in _NAMES]
    for file in files:
        if file.exists() and not overwrite:
            raise UserError(f"{str(file)!r} is there already: choose another name, or say --overwrite to replace it.")
    return files


def show(comparison: Comparison, form: str) -> None:
    """Print the table: on "screen", or as one of `FORMATS`."""
    if form != "screen":
        print(FORMATS[form](comparison.table), end="")
        return
    console = Console()
    width = console.width if console.is_terminal else _WIDTH_OF_A_FILE
    console = Console(width=width)
    console.print(on_screen(comparison.table, width))
    for line in (*comparison.table.notes(), *comparison.failures()):
        console.print(line, highlight=False, markup=False, soft_wrap=not console.is_terminal)


def write(comparison: Comparison, files: Sequence[Path]) -> Iterator[str]:
    """Write the files; gives a line that says where each kind is."""
    figure = comparison.figure() if any(file.suffix in PICTURES for file in files) else None
    for file in files:
        with user_errors(f"{str(file)!r} cannot be written: "):
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix in SUFFIXES:
                write_text(file, FORMATS[SUFFIXES[file.suffix]](comparison.table))
            else:
                from bnlab.figures import file_of

                assert figure is not None
                write_bytes(file, file_of(figure, file.suffix))
    for folder in dict.fromkeys(file.parent for file in files):
        names = ", ".join(file.name for file in files if file.parent == folder)
        yield f"{shown(folder)}: {names}"
