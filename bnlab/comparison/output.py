"""Writes a comparison to the terminal and to files."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bnlab.comparison.comparison import Comparison
from bnlab.comparison.formats import FORMATS, SUFFIXES
from bnlab.comparison.screen import on_screen
from bnlab.errors import user_errors
from bnlab.io.atomic_file import write_bytes, write_text
from bnlab.io.output_files import PICTURES

__all__ = ["NAMES", "show", "write"]

NAMES = (*(f"curves{suffix}" for suffix in PICTURES), *(f"table{suffix}" for suffix in SUFFIXES))
_FILE_WIDTH = 160  # characters per line, where the table is not read on a terminal


def show(comparison: Comparison, form: str) -> None:
    """Print the table for the "screen" or in one of `FORMATS`."""
    if form != "screen":
        print(FORMATS[form](comparison.table), end="")
        return
    console = Console()
    width = console.width if console.is_terminal else _FILE_WIDTH
    console = Console(width=width)
    console.print(on_screen(comparison.table, width))
    for line in (*comparison.table.notes(), *comparison.failures()):
        console.print(line, highlight=False, markup=False, soft_wrap=not console.is_terminal)


def write(comparison: Comparison, files: Sequence[Path]) -> None:
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
