"""Writes an inspection of a network to the terminal and to files."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bnlab.errors import user_errors
from bnlab.inside.inspection import Inspection
from bnlab.inside.table import meanings, on_screen, to_csv
from bnlab.io.atomic_file import write_bytes, write_text
from bnlab.io.output_files import PICTURES

__all__ = ["show", "write"]

_FILE_WIDTH = 160  # characters per line, where the table is not read on a terminal


def show(inspection: Inspection) -> None:
    console = Console()
    console = console if console.is_terminal else Console(width=_FILE_WIDTH)
    console.print(on_screen(inspection.layers, console.width))
    for line in (*meanings(inspection.layers), *inspection.notes()):
        console.print(line, highlight=False, markup=False, soft_wrap=not console.is_terminal)


def write(inspection: Inspection, files: Sequence[Path]) -> None:
    figure = inspection.figure() if any(file.suffix in PICTURES for file in files) else None
    for file in files:
        with user_errors(f"{str(file)!r} cannot be written: "), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about numbers at the ends of the range
            file.parent.mkdir(parents=True, exist_ok=True)
            if figure is None or file.suffix not in PICTURES:
                write_text(file, to_csv(inspection.layers))
            else:
                from bnlab.figures import file_of

                write_bytes(file, file_of(figure, file.suffix))
