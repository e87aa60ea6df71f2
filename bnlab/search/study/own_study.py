"""A study as seen by one of the sweeps that share it: its own trials, and how each ended."""

import time
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from bnlab.internals.optuna_internals import id_of
from bnlab.metrics import test_metric
from bnlab.process.outside import is_outside
from bnlab.runs.summary import Summary
from bnlab.search.study.storage import study_id, trial_id
from bnlab.search.study.trials import FOLDER, KEPT, RESULT, SUBDIR, SWEEP, folder_name
from bnlab.status import Status

__all__ = ["PATIENCE_S", "OwnStudy"]

_ABANDONED_AFTER_S = 5.0
PATIENCE_S = 60.0  # how long to retry a failing storage


class OwnStudy:
    """`study`, in which the sweep `sweep_id` runs trials.

    Args:
        folder: the current folder of the sweep.
        worst: the objective that stands for a training without a finite epoch.
    """

    def __init__(self, study: optuna.Study, storage: BaseStorage, *, sweep_id: str, folder: Path, worst: float) -> None:
        self.study = study
        self.storage = storage
        self.id = study_id(storage, study.study_name)
        self.sweep_id = sweep_id
        self._folder = folder
        self._worst = worst

    @property
    def is_private(self) -> bool:
        """Whether no other sweep can share it."""
        return isinstance(self.storage, optuna.storages.JournalStorage)

    def trials(self, states: Sequence[TrialState] | None = None) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)

    def trial(self, number: int) -> FrozenTrial:
        return self.storage.get_trial(trial_id(self.storage, self.id, number))

    def id_of(self, trial: FrozenTrial) -> int:
        return id_of(trial, self.storage, self.id)

    def folders(self) -> list[str]:
        """Return the names of the folders of the trials that this sweep has run or is running."""
        return [folder_name(trial) for trial in self.trials() if trial.user_attrs.get(SWEEP) == self.sweep_id]

    def takes(self, trial: FrozenTrial) -> bool:
        """Take the waiting `trial`; False if another sweep was faster, which may even have finished it."""
        try:
            return self.storage.set_trial_state_values(self.id_of(trial), state=TrialState.RUNNING)
        except optuna.exceptions.UpdateFinishedTrialError:
            return False

    def sign(self, trial: FrozenTrial) -> None:
        """Record that this sweep runs `trial`."""
        self.storage.set_trial_user_attr(self.id_of(trial), SWEEP, self.sweep_id)
        if not self.is_private:
            self.storage.set_trial_user_attr(self.id_of(trial), FOLDER, str(self._folder))

    def place(self, number: int, name: str) -> None:
        """Record `name`, relative to the sweep's folder, as the folder of trial `number`."""
        self.storage.set_trial_user_attr(trial_id(self.storage, self.id, number), SUBDIR, name)

    def owner(self, trial: FrozenTrial) -> str | None:
        """Return the id of the sweep that runs `trial`, which it may have taken just now; None if no sweep does."""
        deadline = time.monotonic() + (0 if self.is_private else _ABANDONED_AFTER_S)
        owner: str | None = trial.user_attrs.get(SWEEP)
        while owner is None:
            owner = self.storage.get_trial(self.id_of(trial)).user_attrs.get(SWEEP)
            if owner is not None or time.monotonic() >= deadline:
                break
            time.sleep(0.2)
        return owner

    def tell(self, number: int, result: Summary) -> None:
        """Record the end of trial `number` by the summary of its run.

        A trial that failed for outside reasons (`bnlab.process.outside`) counts as interrupted. A failing storage is
        retried for a while, without repeating what had succeeded.
        """
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                self._tell_once(number, result)
                return
            except Exception as error:
                if not is_outside(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def _tell_once(self, number: int, result: Summary) -> None:
        trial = self.trial(number)
        if trial.state.is_finished():
            return
        status = Status.INTERRUPTED if result.get("outside") else result["status"]
        tested = test_metric(result)
        kept = {
            "status": status,
            **dict.fromkeys(KEPT),
            "error": result.get("error", ""),
            **{name: value for name, value in result.items() if name in (*KEPT, tested)},
        }
        self.storage.set_trial_user_attr(self.id_of(trial), RESULT, kept)
        if status.is_ranked:
            value = result.get("objective")
            self.study.tell(number, self._worst if value is None else value)
        else:
            self.study.tell(number, state=TrialState.PRUNED if status == Status.PRUNED else TrialState.FAIL)
