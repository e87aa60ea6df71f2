"""What a run came to: the fields of summary.json that every way of training fills, and the table that closes a run."""

import functools
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from bnlab.metrics import columns_of
from bnlab.own_version import own_version
from bnlab.runs.history import History
from bnlab.runs.repository import git_state
from bnlab.text.command_line import command as command_line

if TYPE_CHECKING:
    from bnlab.data import Splits

__all__ = ["Summary", "beginning", "ending", "versions"]

Summary = dict[str, Any]


def beginning(
    config: DictConfig,
    overrides: Sequence[str] | None,
    command: str | None = None,
    sweep: Mapping[str, str] | None = None,
) -> Summary:
    """What is known before the training; a status of failed stands until something better is known.

    Args:
        overrides: what made the config; None where no overrides make it.
        command: the line that repeats the run, where it takes more than the overrides.
        sweep: whose trial it is, {"id", "folder"}; the folder is relative to the sweep's.
    """
    if command is None and overrides is not None:
        command = command_line(overrides)
    return {
        "status": "failed",
        "objective": None,
        "objective_name": config.objective,
        "command": command,
        "seed": config.seed,
        "versions": versions(),
        "git": git_state(),
        **({} if sweep is None else {"sweep": dict(sweep)}),
    }


def ending(
    history: History,
    config: DictConfig,
    *,
    status: str,
    steps: int,
    test_metrics: Mapping[str, float],
    num_parameters: int,
    samples_per_second: float,
    splits: "Splits",
    fingerprint: str,
) -> Summary:
    """What is known after the training.

    Args:
        test_metrics: those of the best epoch's weights, empty without one.
        splits, fingerprint: the data, and which they are (`bnlab.data.fingerprint`).
    """
    return {
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


def _of_the_test(config: DictConfig) -> list[str]:
    return ["test_" + name.removeprefix("val_") for name in columns_of(config) if name.startswith("val_")]


def best_of(row: Mapping[str, float] | None, config: DictConfig) -> Summary:
    """The fields that the best epoch's row of metrics.csv gives; all None where there is no best epoch."""
    best = row or {}
    return {
        "objective": best.get(config.objective),
        "best_epoch": best.get("epoch"),
        **{name: best.get(name) for name in columns_of(config)},
    }


@functools.cache
def versions() -> dict[str, str]:
    packages = ("torch", "lightning", "hydra-core", "numpy")
    of_packages = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), "bnlab": own_version()} | of_packages
