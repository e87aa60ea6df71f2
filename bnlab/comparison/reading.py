"""Reads runs and sweeps of any status for a comparison, without torch and without running their code."""

import csv
from collections.abc import Sequence
from pathlib import Path

from bnlab.comparison.arms import Result
from bnlab.comparison.settings import read_settings
from bnlab.errors import UserError, one_line
from bnlab.io.folder_lock import is_locked
from bnlab.io.stored_file import read_text
from bnlab.io.yaml_text import read_yaml
from bnlab.metrics import minimizes, objectives
from bnlab.runs.folder import RunFolder
from bnlab.runs.reading import read_metrics
from bnlab.runs.summary import Summary, metric_values, read_summary
from bnlab.runs.sweeps import check_is_current
from bnlab.status import Status
from bnlab.text.command_line import shown

__all__ = ["read_results"]

_DEFINITION, _TRIALS = "sweep.yaml", "trials.csv"
_OF_A_RUN = [status for status in Status if status.is_of_a_run]


def read_results(paths: Sequence[Path]) -> tuple[list[Result], list[str]]:
    """Read the runs in these folders and all trials of the sweeps in them; also return remarks on trials without files.

    Raises:
        UserError: a folder is neither a run nor a sweep, or cannot be read; or none of them has metrics.
    """
    results: list[Result] = []
    remarks: list[str] = []
    for path in dict.fromkeys(paths):
        found, said = _read(path)
        results += found
        remarks += said
    if not any(result.curves for result in results):
        statuses = [f"{result.name!r} {result.status}" for result in results]
        raise UserError(
            f"There is nothing to compare: no run has metrics ({', '.join(statuses[:3])}"
            f"{', ...' if len(statuses) > 3 else ''})."
        )
    return results, remarks


def _read(path: Path) -> tuple[list[Result], list[str]]:
    if not path.exists():
        raise UserError(f"{str(path)!r} does not exist: name the folder of a run or of a sweep.")
    if (path / _DEFINITION).is_file():
        return _read_sweep(path)
    folder = RunFolder(path)
    if folder.config.is_file():
        return [_read_run(folder, shown(path))], []
    below = sorted(found.parent for name in ("config.yaml", _DEFINITION) for found in path.glob(f"*/{name}"))
    more = f" Below it there is {shown(below[0])!r}." if below else ""
    raise UserError(f"{str(path)!r} is the folder of neither a run nor a sweep: it has no config.yaml.{more}")


def _read_sweep(path: Path) -> tuple[list[Result], list[str]]:
    """Read all trials whose config was written, and return a remark on each of the others."""
    listed = _rows(path / _TRIALS)
    rows = {row["folder"]: row for row in listed if row.get("folder") and _is_inside(row["folder"])}
    numbered = sorted((entry.name for entry in path.iterdir() if entry.name.isdecimal()), key=int)
    results = []
    for name in dict.fromkeys([*rows, *numbered]):
        folder = RunFolder(path / name)
        if folder.config.is_file():
            status = rows.get(name, {}).get("status", "")
            results.append(_read_run(folder, shown(path), status if status in _OF_A_RUN else ""))
    if not results:
        raise UserError(f"The sweep in {str(path)!r} has no trial that has begun.")
    remarks = []
    for row in listed:
        name = row.get("folder") or ""
        if not (name and _is_inside(name) and RunFolder(path / name).config.is_file()):
            error = f": {row['error']}" if row.get("error") else ""
            remarks.append(f"{shown(path)}: trial {row.get('number')}, {row.get('status')}, has no folder here{error}")
    return results, remarks


def _is_inside(name: str) -> bool:
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _rows(file: Path) -> list[dict[str, str]]:
    try:
        reader = csv.DictReader(read_text(file).splitlines(), strict=True)
        check_is_current(reader.fieldnames or ())
        return list(reader)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{str(file)!r} cannot be read: {one_line(error)}") from error


def _read_run(folder: RunFolder, owner: str, status: str = "") -> Result:
    """Read a run.

    Args:
        status: its status in the sweep, which knows about retries; "" for the status that the run itself has.
    """
    try:
        config = read_yaml(folder.config)
        if not isinstance(config, dict):
            raise ValueError("config.yaml has no settings")
        summary: Summary = read_summary(folder.summary) if folder.summary.is_file() else {}
        curves = read_metrics(folder.metrics) if folder.metrics.is_file() else {}
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise UserError(f"The run in {str(folder.path)!r} cannot be read: {one_line(error)}") from error
    status = status or summary.get("status", "")
    if status not in _OF_A_RUN:
        status = Status.RUNNING if is_locked(folder.path) else Status.UNFINISHED
    seed = config.get("seed")
    objective_name = str(summary.get("objective_name") or config.get("objective") or objectives(config)[0])
    return Result(
        name=shown(folder.path),
        owner=owner,
        settings=read_settings(config),
        seed=seed if type(seed) is int else 0,
        status=Status(status),
        error=str(summary.get("error") or ""),
        values=metric_values(summary),
        curves=curves,
        objective_name=objective_name,
        minimize=minimizes({**config, "objective": objective_name}),
    )
