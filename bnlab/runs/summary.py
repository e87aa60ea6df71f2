"""The summary of a run: the fields of summary.json, common to all ways of training, and reading them back."""

import functools
import importlib.metadata
import json
import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

from omegaconf import DictConfig

from bnlab.io.stored_file import read_text
from bnlab.metrics import columns_of
from bnlab.own_version import own_version
from bnlab.runs.branch import Branch
from bnlab.runs.history import History
from bnlab.runs.repository import git_state
from bnlab.status import Status
from bnlab.text.command_line import command as command_line

if TYPE_CHECKING:
    from bnlab.data import Splits

__all__ = ["Owner", "Summary", "beginning", "ending", "metric_values", "read_summary", "summary_in", "versions"]

_METRICS = ("train_", "val_", "test_")


class Owner(TypedDict):
    """The sweep to which a run belongs as a trial, and the run's folder relative to the sweep's."""

    id: str
    folder: str


class Summary(TypedDict, total=False):
    """The content of summary.json. The metrics stand beside these fields, under their names (`metric_values`).

    `bnlab.runs.folder.RunFolder.write_summary` writes it, and `read_summary` reads it; a sweep, its study and its
    results use the same names for its fields.
    """

    status: Status
    error: str  # why there are no results
    outside: bool  # whether the run did not cause the error itself (`bnlab.process.outside`)
    objective: float | None  # at the best epoch; None where there is none
    objective_name: str
    best_epoch: float | None
    diverged_epoch: int | None
    epochs: int
    steps: int
    seconds: float | None
    samples_per_second: float
    parameters: int
    command: str | None
    seed: int
    versions: dict[str, str]
    git: dict[str, Any] | None
    sweep: Owner
    branch: Branch
    sample_shape: list[int]
    data_sha256: str
    num_classes: int | None
    class_names: list[str] | None


def beginning(
    config: DictConfig,
    overrides: Sequence[str] | None,
    command: str | None = None,
    sweep: Owner | None = None,
) -> Summary:
    """Make the summary before the training; its status is failed until something better is known.

    Args:
        overrides: those from which the config was composed; None if no overrides give it.
        command: the command that repeats the run, if it takes more than the overrides.
        sweep: the sweep that the run belongs to.
    """
    if command is None and overrides is not None:
        command = command_line(overrides)
    summary: Summary = {
        "status": Status.FAILED,
        "objective": None,
        "objective_name": config.objective,
        "command": command,
        "seed": config.seed,
        "versions": versions(),
        "git": git_state(),
    }
    if sweep is not None:
        summary["sweep"] = sweep
    return summary


def ending(
    history: History,
    config: DictConfig,
    *,
    status: Status,
    steps: int,
    test_metrics: Mapping[str, float],
    num_parameters: int,
    samples_per_second: float,
    splits: "Splits",
    fingerprint: str,
) -> Summary:
    """Make the fields that are known after the training.

    Args:
        test_metrics: those of the best epoch's weights; empty if there is no best epoch.
        splits, fingerprint: the data and their fingerprint (`bnlab.data.fingerprint`).
    """
    fields = {
        "status": status,
        "diverged_epoch": history.diverged_epoch,
        **best_of(history.best, config),
        "epochs": len(history.rows),
        "steps": steps,
        **{name: test_metrics.get(name) for name in _of_the_test(config)},
        "parameters": num_parameters,
        "samples_per_second": samples_per_second,
        "sample_shape": list(splits.sample_shape),
        "data_sha256": fingerprint,
        "num_classes": splits.num_classes,
        "class_names": None if splits.class_names is None else list(splits.class_names),
    }
    return cast(Summary, fields)


def _of_the_test(config: DictConfig) -> list[str]:
    return ["test_" + name.removeprefix("val_") for name in columns_of(config) if name.startswith("val_")]


def best_of(row: Mapping[str, float] | None, config: DictConfig) -> Summary:
    """Take the fields of the best epoch from its row of metrics.csv; all are None if there is no best epoch."""
    best = row or {}
    fields = {"objective": best.get(config.objective), "best_epoch": best.get("epoch")}
    return cast(Summary, fields | {name: best.get(name) for name in columns_of(config)})


def metric_values(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics at the best epoch and on the test set, without those that are null."""
    return {
        name: float(value)
        for name, value in summary.items()
        if str(name).startswith(_METRICS) and _is_number(value) and math.isfinite(value)
    }


_STATUSES = [status for status in Status if status.is_of_a_run]


def read_summary(file: Path) -> Summary:
    """Read a summary.json.

    Raises:
        ValueError, OSError: it cannot be read, or is no summary.
    """
    try:
        summary = json.loads(read_text(file))
    except (IsADirectoryError, RecursionError) as error:
        raise ValueError(f"{file.name} is damaged") from error
    is_sound = (
        isinstance(summary, dict)
        and summary.get("status") in _STATUSES
        and all(
            value is None or _is_number(value)
            for key, value in summary.items()
            if key in ("objective", "seconds") or key.startswith("test_")
        )
        and isinstance(summary.get("error", ""), str)
    )
    if not is_sound:
        raise ValueError(f"{file.name} is damaged")
    summary["status"] = Status(summary["status"])
    return cast(Summary, summary)


def summary_in(folder: Path) -> Summary | None:
    """Read the summary of the run in `folder`; None if it has none.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return read_summary(folder / "summary.json")
    except FileNotFoundError:
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@functools.cache
def versions() -> dict[str, str]:
    packages = ("torch", "lightning", "hydra-core", "numpy")
    of_packages = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), "bnlab": own_version()} | of_packages
