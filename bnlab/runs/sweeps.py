"""A sweep read back from its folder: its trials, their ranking, and the runs themselves."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any

from bnlab.errors import UserError, user_errors
from bnlab.io.stored_file import read_text
from bnlab.io.yaml_text import read_yaml
from bnlab.runs.notebook_table import as_html, as_markdown, as_pandas
from bnlab.runs.reading import Run, load
from bnlab.text.command_line import shown
from bnlab.text.number_format import metric

__all__ = ["Sweep", "check_is_current", "load_sweep"]

_ON_SCREEN = 10


@dataclass(frozen=True)
class Sweep:
    """A sweep read back.

    Attributes:
        folder: the sweep's folder.
        objective_name: the metric by which trials are ranked, such as val_accuracy.
        minimize: whether a lower objective is better.
        metrics: one list per column of trials.csv: numbers as numbers, None for an empty cell.
        best: the overrides of the best configuration; None if no trial has an objective.
        best_objective: the objective of the best configuration, or its mean over several seeds.
    """

    folder: Path
    objective_name: str
    metrics: dict[str, list[Any]]
    best: list[str] | None
    best_objective: float | None = None
    minimize: bool = False

    def __len__(self) -> int:
        """Return the number of trials."""
        return len(self.metrics["number"])

    @property
    def settings(self) -> list[str]:
        """Return the settings that were searched."""
        after_objective = dropwhile(lambda name: name != self.objective_name, self.metrics)
        return list(takewhile(lambda name: not name.startswith("test_"), after_objective))[1:]

    def run(self, number: int, *, trust: bool = False) -> Run:
        """Read trial `number` back, as `bnlab.load` does.

        Raises:
            UserError: there is no such trial, or it has no results.
        """
        if number not in self.metrics["number"]:
            raise UserError(f"The sweep in {shown(self.folder)!r} has {len(self)} trials, and none is number {number}.")
        folder = self.metrics["folder"][self.metrics["number"].index(number)]
        return load(self.folder / str(number if folder is None else folder), trust=trust)

    def table(self, limit: int | None = _ON_SCREEN) -> str:
        """Return the best `limit` trials, best first, as Markdown; None for all trials."""
        return as_markdown(*self._rows(limit))

    def to_pandas(self) -> Any:
        """`metrics` as a `pandas.DataFrame`, which needs pandas."""
        return as_pandas(self.metrics)

    def _rows(self, limit: int | None) -> tuple[list[str], list[list[str]]]:
        test = [
            name for name in self.metrics if name.startswith("test_") and any(v is not None for v in self.metrics[name])
        ]
        header = ["number", "status", self.objective_name, *self.settings, *test]
        values = self.metrics[self.objective_name]
        sign = 1 if self.minimize else -1
        order = sorted(range(len(self)), key=lambda i: (values[i] is None, sign * (values[i] or 0), i))[:limit]
        return header, [[_cell(name, self.metrics[name][i], self.objective_name) for name in header] for i in order]

    def __repr__(self) -> str:
        value = self.best_objective
        told = "" if value is None else f", best {self.objective_name} {metric(self.objective_name, value)}"
        return f"Sweep({shown(self.folder)!r}, {len(self)} trial{'s' * (len(self) != 1)}{told})"

    def _repr_html_(self) -> str:
        return as_html(*self._rows(_ON_SCREEN), caption=repr(self))


def _cell(name: str, value: Any, objective: str) -> str:
    if value is None:
        return ""
    return metric(name, value) if name == objective or name.startswith("test_") else str(value)


def load_sweep(path: str | Path) -> Sweep:
    """Read the sweep in folder `path`, without running any of its code.

    Raises:
        UserError: the folder holds no sweep with results, or a file is damaged.
    """
    folder = Path(path)
    for name in ("sweep.yaml", "trials.csv"):
        if not (folder / name).is_file():
            raise UserError(f"{str(folder)!r} is not the folder of a sweep with results: it has no {name}.")
    with user_errors(f"The sweep in {str(folder)!r} cannot be read: "):
        header, *rows = list(csv.reader(read_text(folder / "trials.csv").splitlines(), strict=True))
        check_is_current(header)
        if header[:2] != ["number", "status"] or len(header) < 3 or any(len(row) != len(header) for row in rows):
            raise ValueError("trials.csv is damaged")
        columns = {name: [_value(row[i]) for row in rows] for i, name in enumerate(header)}
        definition: Any = read_yaml(folder / "sweep.yaml")
        minimize = bool(definition.get("minimize")) if isinstance(definition, dict) else False
        best: Any = read_yaml(folder / "best.yaml") if (folder / "best.yaml").is_file() else None
        overrides, value = (best.get("overrides"), best.get("objective")) if isinstance(best, dict) else (None, None)
        if not (overrides is None or _are_texts(overrides)) or not (value is None or isinstance(value, float | int)):
            raise ValueError("best.yaml is damaged")
    columns["folder"] = [row[header.index("folder")] or None for row in rows]
    return Sweep(folder, header[2], columns, overrides, value, minimize)


def check_is_current(columns: Sequence[str]) -> None:
    """Check the columns of trials.csv.

    Raises:
        ValueError: they have the names of an earlier version.
    """
    if list(columns[1:2]) == ["state"]:
        raise ValueError("an earlier version of bnlab wrote trials.csv; search.resume=FOLDER writes it again")


def _are_texts(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(item, str) for item in value)


def _value(text: str) -> Any:
    """Convert a cell by the rules of overrides: a number becomes a number, an empty cell None."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return {"": None, "True": True, "False": False}.get(text, text)
