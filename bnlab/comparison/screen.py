"""Shows the table of an ablation on a terminal."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table as RichTable
from rich.text import Text

from bnlab.comparison.formats import cells, columns
from bnlab.comparison.table import Table

__all__ = ["on_screen", "width_of"]

MOST_ROWS = 20
_MOST_ACROSS = 6  # arms side by side


def on_screen(table: Table, width: int) -> RichTable:
    """Lay out one row per arm or, where a few rows do not fit into `width` characters, one column per arm."""
    headings = [[heading] for heading in columns(table)]
    rows = [[Text(text) for text in cells(table, index)] for index in range(min(len(table.rows), MOST_ROWS))]
    first_metric = 2 + len(table.keys)
    for place, metric in enumerate(table.metrics, start=first_metric):
        for index in table.best[metric]:
            if index < len(rows):
                rows[index][place].stylize("bold")
    grid = [[Text(heading[0]) for heading in headings], *rows]
    if width_of(grid) > width and len(rows) <= _MOST_ACROSS:
        return _shown([list(column) for column in zip(*grid, strict=True)], first_metric=1)
    num_columns = len(headings)
    while width_of([row[:num_columns] for row in grid]) > width and num_columns > first_metric + 1:
        num_columns -= 1
    shown = _shown([row[:num_columns] for row in grid], first_metric)
    left_out = {"columns": len(headings) - num_columns, "rows": len(table.rows) - len(rows)}
    if any(left_out.values()):
        text = " and ".join(f"{number} more {noun}" for noun, number in left_out.items() if number)
        shown.caption = f"The files contain {text}."
        shown.caption_justify = "left"
    return shown


def width_of(grid: Sequence[Sequence[Text]]) -> int:
    """Return the width in characters of a table with these cells."""
    return 2 + sum(max(cell_len(cell.plain) for cell in column) + 2 for column in zip(*grid, strict=True))


def _shown(grid: list[list[Text]], first_metric: int) -> RichTable:
    shown = RichTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for place, heading in enumerate(grid[0]):
        shown.add_column(heading, justify="left" if 0 < place < first_metric else "right", overflow="fold")
    for row in grid[1:]:
        shown.add_row(*row)
    return shown
