"""Reads a data set from a user's table: a text file with a header and one row per sample."""

import csv
import difflib
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bnlab.data.labels import as_targets, number_classes
from bnlab.data.parts import cut
from bnlab.data.splits import Split, Splits
from bnlab.errors import UserError
from bnlab.io.own_file import read_own_file
from bnlab.text.command_line import override, typed

__all__ = ["from_csv"]

_DELIMITERS = (",", ";", "\t", "|")
_TRUTH = {"false": 0.0, "true": 1.0}


def from_csv(
    path: str,
    target: str,
    *,
    drop: Sequence[str] = (),
    delimiter: str | None = None,
    task: str = "classification",
    val_fraction: float = 0.2,
    test_fraction: float = 0.2,
    split_seed: int = 0,
) -> Splits:
    """Read the rows of a CSV file and cut them into three random parts, stratified if classes are learned.

    Every column except `target` and those in `drop` is a feature and holds numbers, or true and false for 1 and 0. An
    unnamed column must be empty, as a delimiter at the end of each line makes it, or listed in `drop`.

    Args:
        path: a file in UTF-8 whose first line names the columns.
        target: the column to predict. Classes may be text, and are numbered in the order of their names.
        drop: columns to leave out, such as identifiers.
        delimiter: None for whichever of comma, semicolon, tab and | cuts the first line into the most columns.
        task: "classification", or "regression" to predict real numbers.
        val_fraction, test_fraction: shares of all rows.
        split_seed: determines which rows go to which part.
    Raises:
        UserError: the file is not such a table; the error names the column and the line.
    """
    name = Path(path).name
    text = _decoded(name, read_own_file(path))
    columns = _columns(name, text, delimiter)
    for wanted in (target, *drop):
        if wanted not in columns:
            near = difflib.get_close_matches(wanted, columns, 1)
            shown = f"did you mean {near[0]!r}?" if near else f"it has {_listed(list(columns))}."
            raise UserError(f"{name} has no column {wanted!r}: {shown}")
    if target in drop:
        raise UserError(
            f"`data.target` is the column {target!r}, which `data.drop` leaves out: remove it from one of them."
        )
    if "" in columns and "" not in drop:
        place = list(columns).index("") + 1
        raise UserError(
            f"Each column of {name} must have a name, but number {place} has none: name it, or {_drop('')}."
        )
    features = [_numbers(name, key, cells) for key, cells in columns.items() if key != target and key not in drop]
    if not features:
        raise UserError(f"{name} has no column beside the target {target!r}, but a network needs at least one feature.")
    x = torch.from_numpy(np.column_stack(features))
    labels = f"The column {target!r} of {name}"
    if task == "regression":
        numbers = as_targets(labels, _numbers(name, target, columns[target], is_target=True))
        whole, num_classes, class_names = Split(x, torch.from_numpy(numbers)), None, None
    else:
        classes, class_names = number_classes(labels, _numbers_or_text(columns[target]))
        whole, num_classes = Split(x, torch.from_numpy(classes)), len(class_names)
    return cut(
        whole,
        num_classes,
        class_names=class_names,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        split_seed=split_seed,
    )


def _decoded(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{name} must be text in UTF-8, but line {line} is not: save it as UTF-8.") from error


def _columns(name: str, text: str, delimiter: str | None) -> dict[str, list[str]]:
    """Return the cells of each column by name."""
    if delimiter is None:
        delimiter = max(_DELIMITERS, key=lambda each: _num_columns(text, each))
    if len(delimiter) != 1:
        raise UserError(f"`data.delimiter` must be a single character, but got {delimiter!r}.")
    reader = _reader(text, delimiter)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise UserError(f"{name} cannot be read as a table: {error} in line {reader.line_num}.") from error
    if not header:
        raise UserError(f"{name} is empty, but its first line must name the columns.")
    if all(map(_is_number, header)):
        raise UserError(f"The first line of {name} must name the columns, but holds numbers: {_listed(header)}.")
    for line, row in rows:
        if len(row) != len(header):
            raise UserError(
                f"{name} has {len(header)} columns, but {len(row)} in line {line}: each row needs as many as the first "
                "line names."
            )
    if not rows:
        raise UserError(f"{name} has no rows below its first line.")
    kept = [place for place, key in enumerate(header) if key or any(row[place].strip() for _, row in rows)]
    header = [header[place] for place in kept]
    twice = [key for key in header if header.count(key) > 1]
    if twice:
        raise UserError(f"Each column of {name} must have a name of its own, but {twice[0]!r} names two.")
    return {key: [row[place] for _, row in rows] for key, place in zip(header, kept, strict=True)}


def _reader(text: str, delimiter: str) -> Any:
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)


def _num_columns(text: str, delimiter: str) -> int:
    try:
        return len(next(_reader(text, delimiter), []))
    except csv.Error:  # reported when the table is read
        return 0


def _numbers(name: str, key: str, cells: Sequence[str], *, is_target: bool = False) -> NDArray[np.float64]:
    try:
        numbers = np.array(cells).astype(np.float64)
    except ValueError:
        truth = [_TRUTH.get(cell.strip().lower()) for cell in cells]
        if None not in truth:
            return np.array(truth, dtype=np.float64)
    else:
        if np.isfinite(numbers).all():
            return numbers
    row, cell = next((row, cell) for row, cell in enumerate(cells) if not (_is_number(cell) and _is_finite(cell)))
    found = f"{cell!r}" if cell.strip() else "nothing"
    raise UserError(
        f"The column {key!r} of {name} must hold numbers, but has {found} in row {row + 1} below the names: "
        f"{_way_out(key, cell, is_target)}."
    )


def _way_out(key: str, cell: str, is_target: bool) -> str:
    if _is_number(cell.replace(",", "")):
        return "write it with a point for the decimals and without commas" if "," in cell else _without(key, is_target)
    return "task=classification learns classes" if is_target and cell.strip() else _without(key, is_target)


def _without(key: str, is_target: bool) -> str:
    return "leave such rows out" if is_target else f"fill it in, or {_drop(key)}"


def _drop(key: str) -> str:
    return f"leave the column out by {typed(override('data.drop', [key]))}"


def _numbers_or_text(cells: Sequence[str]) -> NDArray[np.float64] | NDArray[np.str_]:
    """Convert a column to numbers if all cells are numbers, so that class 2 precedes 10, and 1 equals 1.0."""
    text = np.array([cell.strip() for cell in cells])
    try:
        return text.astype(np.float64)
    except ValueError:
        return text


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _is_finite(cell: str) -> bool:
    return math.isfinite(float(cell))


def _listed(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(map(repr, names[:most]))
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
