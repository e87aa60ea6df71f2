"""The trials of a study as rows, for tables, files and figures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from bnlab.search.samplers.place import POINT, REPEAT
from bnlab.search.spaces.distributions import from_optuna, name_in_optuna
from bnlab.search.spaces.parameter import Point
from bnlab.search.spaces.space import Space
from bnlab.status import Status

__all__ = [
    "FOLDER",
    "KEPT",
    "REPEAT",
    "RESULT",
    "SUBDIR",
    "SWEEP",
    "Configuration",
    "Trial",
    "folder_name",
    "rank",
    "read_trials",
    "result_of",
]

# A trial's user attributes, beside those of the samplers
SWEEP = "sweep"  # the id of the sweep that runs it: the folder of a sweep may be moved
SUBDIR = "subdir"  # its folder, relative to the sweep's, if it is not the trial's number
FOLDER = "folder"  # in a database, the sweep's folder when the trial began, for others that share the study
RESULT = "result"  # from its summary: status, objective, seconds, error, and the test metric in the tables

KEPT = ("objective", "seconds")  # numbers in a run's summary that tables show beside the test metric

_STATUSES = {
    TrialState.WAITING: Status.WAITING,
    TrialState.RUNNING: Status.RUNNING,
    TrialState.COMPLETE: Status.COMPLETED,
    TrialState.PRUNED: Status.PRUNED,
    TrialState.FAIL: Status.FAILED,
}


@dataclass(frozen=True)
class Trial:
    """A run of a search.

    Attributes:
        number: its number in the study.
        point: the number of its configuration, from 0.
        repeat: the index of its seed within that configuration, from 0.
        status: its status; interrupted if it was retried.
        objective: the objective at its best epoch; None if there was none.
        values: the parameters, by their key in the config.
        kept: the part of its summary that the study keeps, including `KEPT`; empty before it ended.
        error: why it failed.
        test: the name and the value of its test score; None if it was not tested.
    """

    number: int
    point: int | None
    repeat: int
    status: Status
    objective: float | None = None
    values: Point = field(default_factory=dict)
    kept: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    error: str = ""
    test: tuple[str, float] | None = None

    @property
    def place(self) -> int:
        """Return the number of its configuration, or its own number if the study does not name a configuration."""
        return self.number if self.point is None else self.point

    @property
    def is_finished(self) -> bool:
        return self.status.is_final


@dataclass(frozen=True)
class Configuration:
    """The trials of one point that have an objective; `mean` and `deviation` (with n - 1) over its seeds.

    Attributes:
        seeds: the number of its seeds when it is complete.
    """

    trials: tuple[Trial, ...]
    seeds: int = 1

    @property
    def num_seeds(self) -> int:
        return len({trial.repeat for trial in self.trials})

    @property
    def is_complete(self) -> bool:
        return self.num_seeds >= self.seeds

    @property
    def values(self) -> Point:
        return self.trials[0].values

    @property
    def mean(self) -> float:
        return math.fsum(_objective(trial) for trial in self.trials) / len(self.trials)

    @property
    def deviation(self) -> float | None:
        if len(self.trials) < 2:
            return None
        squares = math.fsum((_objective(trial) - self.mean) ** 2 for trial in self.trials)
        return math.sqrt(squares / (len(self.trials) - 1))


def _objective(trial: Trial) -> float:
    assert trial.objective is not None
    return trial.objective


def read_trials(study: optuna.Study, space: Space, sweep_id: str, folder: Path) -> list[Trial]:
    """Read all trials that have started, ordered by number; those of the sweep `sweep_id` are in `folder`."""
    frozen = study.get_trials(deepcopy=False)
    last = {
        (trial.user_attrs[POINT], trial.user_attrs.get(REPEAT, 0)): trial.number
        for trial in frozen
        if POINT in trial.user_attrs
    }
    trials = [_read(trial, space, sweep_id, folder) for trial in frozen if trial.state != TrialState.WAITING]
    trials = [
        replace(trial, status=Status.INTERRUPTED)
        if trial.status == Status.FAILED and last.get((trial.point, trial.repeat), -1) > trial.number
        else trial
        for trial in trials
    ]
    return [trial for trial in trials if trial.status != Status.RUNNING or _has_started(trial)]


def _has_started(trial: Trial) -> bool:
    """Whether the trial has started, as far as can be seen: the sweep's folder may be on another machine."""
    return trial.folder is None or trial.folder.is_dir() or not trial.folder.parent.is_dir()


def folder_name(trial: FrozenTrial) -> str:
    """Return the trial's folder, relative to that of its sweep."""
    return str(trial.user_attrs.get(SUBDIR, trial.number))


def _folder_of(trial: FrozenTrial, sweep_id: str, folder: Path) -> Path | None:
    owner = trial.user_attrs.get(SWEEP)
    if owner == sweep_id:
        return folder / folder_name(trial)
    elsewhere = trial.user_attrs.get(FOLDER)
    return None if elsewhere is None else Path(elsewhere) / folder_name(trial)


def result_of(trial: FrozenTrial) -> dict[str, Any]:
    """Return the fields of the summary of a trial that ended; empty before."""
    result: dict[str, Any] = trial.user_attrs.get(RESULT, {})
    return result


def _read(trial: FrozenTrial, space: Space, sweep_id: str, folder: Path) -> Trial:
    result = result_of(trial) if trial.state.is_finished() else {}
    return Trial(
        number=trial.number,
        point=trial.user_attrs.get(POINT),
        repeat=trial.user_attrs.get(REPEAT, 0),
        status=Status(result.get("status", _STATUSES[trial.state])),
        objective=result.get("objective"),
        values=values_of(trial, space),
        kept=result,
        folder=_folder_of(trial, sweep_id, folder),
        error=result.get("error", ""),
        test=next(
            ((name, value) for name, value in result.items() if name.startswith("test_") and value is not None), None
        ),
    )


def values_of(trial: FrozenTrial, space: Space) -> Point:
    named = [(name_in_optuna(parameter), parameter) for parameter in space.parameters]
    return {
        parameter.key: from_optuna(parameter, trial.params[name]) for name, parameter in named if name in trial.params
    }


def rank(trials: Sequence[Trial], minimize: bool, seeds: int = 1) -> list[Configuration]:
    """Rank the configurations that have an objective, best first; ties go to the earlier one.

    A configuration that lacks some of its `seeds`, because they have not ended, failed, or were pruned or interrupted,
    comes after all complete ones: the mean of the others may flatter it.
    """
    points: dict[int | tuple[int], list[Trial]] = {}
    for trial in trials:
        if trial.status.is_ranked and trial.objective is not None:
            points.setdefault(trial.number if trial.point is None else (trial.point,), []).append(trial)
    sign = 1 if minimize else -1
    return sorted(
        (Configuration(tuple(of_point), seeds) for of_point in points.values()),
        key=lambda of_point: (not of_point.is_complete, sign * of_point.mean, of_point.trials[0].number),
    )
