"""Compare the results of two sweeps bit for bit, whatever disturbed them while they ran."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bnlab.status import Status

__all__ = ["differences", "faults"]

# These differ between repetitions, or depend on the number of a trial.
_MEASURED = ("seconds", "samples_per_second", "sweep")
_NOT_PARAMETERS = ("number", "status", "test_accuracy", "seconds", "folder", "error")
_FILES = ("config.yaml", "overrides.yaml")

_Row = dict[str, str]


def differences(expected: Path, found: Path) -> list[str]:
    """List the differences between two sweeps' folders; the numbers of trials and measured times may differ.

    If a configuration was tried several times, the last try counts.
    """
    lines = []
    ours, theirs = _finished(found), _finished(expected)
    for key in theirs.keys() - ours.keys():
        lines.append(f"a trial is missing: {_shown(key)}")
    for key in ours.keys() - theirs.keys():
        lines.append(f"an extra trial: {_shown(key)}")
    for key in theirs.keys() & ours.keys():
        for line in _between(_described(expected, theirs[key]), _described(found, ours[key])):
            lines.append(f"{_shown(key)}: {line}")
    if not lines and _ranking(expected) != _ranking(found):
        lines.append("the leaderboard has another order")
    return lines


def faults(folder: Path, num_trials: int) -> list[str]:
    """List what is wrong within one sweep: missing trials, tables that contradict the folders, leftover files."""
    lines = []
    finished = _finished(folder)
    if len(finished) != num_trials:
        lines.append(f"{len(finished)} trials have a result, not {num_trials}")
    for key, row in finished.items():
        try:
            described = _described(folder, row)
        except Exception as error:
            lines.append(f"{_shown(key)}: its folder cannot be read: {type(error).__name__}: {error}")
            continue
        summary, rows = described["summary.json"], described["metrics.csv"]
        name = summary["objective_name"]
        if summary["status"] != row["status"]:
            lines.append(f"{_shown(key)}: {row['status']} in trials.csv, {summary['status']} in summary.json")
        if summary["status"] == Status.COMPLETED and summary["best_epoch"] <= len(rows):
            best = rows[summary["best_epoch"] - 1][name]
            if not float(best) == float(row[name]) == summary["objective"]:
                lines.append(f"{_shown(key)}: its objective is {row[name]}, {summary['objective']} and {best}")
        if summary["epochs"] != len(rows):
            lines.append(f"{_shown(key)}: {len(rows)} epochs in metrics.csv, {summary['epochs']} in summary.json")
    for path in folder.rglob(".*"):
        lines.append(f"left behind: {path.relative_to(folder)}")
    return sorted(lines)


def _finished(folder: Path) -> dict[tuple[tuple[str, str], ...], _Row]:
    """Read the rows of trials.csv by their parameters, without interrupted trials."""
    with (folder / "trials.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["status"] not in (Status.INTERRUPTED, Status.RUNNING)]
    if not rows:
        return {}
    objective = list(rows[0])[2]
    return {tuple((name, row[name]) for name in row if name not in (*_NOT_PARAMETERS, objective)): row for row in rows}


def _described(folder: Path, row: _Row) -> dict[str, Any]:
    """Read those results of a trial that must not differ."""
    run = folder / row["folder"]
    summary = json.loads((run / "summary.json").read_text())
    with (run / "metrics.csv").open(newline="") as file:
        rows = [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]
    return {
        "trials.csv": {key: row[key] for key in row if key not in ("number", "seconds", "folder", "error")},
        "summary.json": {key: value for key, value in summary.items() if key not in _MEASURED},
        "metrics.csv": rows,
        **{name: (run / name).read_text() for name in _FILES},
        **{name: dict(_tensors(run / "checkpoints" / name)) for name in ("best.ckpt", "last.ckpt")},
    }


def _tensors(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the bits of each tensor in a checkpoint; nothing if a run diverged at once and has no checkpoint."""
    if not path.is_file():
        return
    import torch

    def walk(name: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, torch.Tensor):
            yield (
                name,
                (value.dtype, tuple(value.shape), value.contiguous().flatten().view(torch.uint8).numpy().tobytes()),
            )
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                yield from walk(f"{name}.{key}", inner)

    yield from walk("", torch.load(path, weights_only=True, map_location="cpu"))


def _between(expected: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    for file, theirs in expected.items():
        ours = found[file]
        if theirs == ours:
            continue
        if isinstance(theirs, Mapping):
            keys = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]
            values = f": {ours.get(keys[0])!r}, not {theirs.get(keys[0])!r}" if file.endswith(("csv", "json")) else ""
            yield f"{file} differs in {', '.join(map(str, keys[:4]))}{values}"
        elif isinstance(theirs, list):
            epoch = next(
                (index for index, rows in enumerate(zip(theirs, ours, strict=False)) if rows[0] != rows[1]), -1
            )
            yield f"{file} differs from epoch {epoch + 1 or min(len(ours), len(theirs)) + 1} on"
        else:
            yield f"{file} differs"


def _ranking(folder: Path) -> tuple[list[str], list[list[str]]]:
    """Read the objectives in leaderboard order, and its rows without the trial numbers, which break ties."""
    lines = (folder / "leaderboard.md").read_text().partition("## Not completed")[0].splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][1:]
    cells = [row[2:] for row in rows if row[0].strip().isdecimal()]
    return [row[0] for row in cells], sorted(cells)


def _shown(key: tuple[tuple[str, str], ...]) -> str:
    return " ".join(f"{name}={value}" for name, value in key)
