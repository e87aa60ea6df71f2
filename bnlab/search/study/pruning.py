"""Pruning: after each epoch, an Optuna pruner decides whether a trial has fallen behind the others."""

import copy
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from bnlab.errors import UserError, error_text, user_errors
from bnlab.internals.hydra_internals import instantiate
from bnlab.process.outside import is_outside
from bnlab.search.study.definition import Definition
from bnlab.search.study.storage import open_storage, study_id, trial_id
from bnlab.search.study.trial_folder import TrialFolder
from bnlab.search.study.trials import SWEEP, folder_name, result_of
from bnlab.status import Status

__all__ = ["Pruning", "pruning_of"]

log = logging.getLogger(__name__)

_RUNG = "completed_rung_"  # prefix in Optuna's successive halving


def pruning_of(trial: TrialFolder, definition: Definition, objective: str) -> "Pruning | None":
    """Return the rule for the trial in a folder of the sweep of `definition`; None if the sweep prunes nothing."""
    if definition.pruner is None:
        return None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(definition.storage_url(trial.sweep.path), trial.sweep.journal)
    study = optuna.load_study(study_name=definition.study, storage=storage)
    (number,) = (
        frozen.number
        for frozen in study.get_trials(deepcopy=False)
        if frozen.user_attrs.get(SWEEP) == definition.id and folder_name(frozen) == trial.name
    )
    return Pruning(study, storage, number, objective, build_pruner(definition.pruner))


def build_pruner(target: Mapping[str, Any]) -> BasePruner:
    """Build the pruner of `search.pruner`.

    Raises:
        UserError: it cannot be built, or is no pruner.
    """
    with user_errors("`search.pruner`: "), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # the user has chosen it
        pruner = instantiate(dict(target), _convert_="all")
    if not isinstance(pruner, BasePruner):
        raise UserError(
            f"`search.pruner._target_` must make a pruner of Optuna's, but {target['_target_']} makes a "
            f"{type(pruner).__name__}: derive its class from optuna.pruners.BasePruner."
        )
    return pruner


def waits_for_completed(target: Mapping[str, Any] | None) -> bool:
    """Return whether a pruner compares only with completed trials, so that it prunes none of one stack."""
    return target is not None and str(target["_target_"]).endswith((".MedianPruner", ".PercentilePruner"))


class Pruning:
    """Reports the objective of each epoch of a trial to the study, and asks the pruner whether to stop."""

    def __init__(
        self, study: optuna.Study, storage: BaseStorage, number: int, objective: str, pruner: BasePruner
    ) -> None:
        self._study = _competitors(study)
        self._storage = storage
        self._trial_id = trial_id(storage, study_id(storage, study.study_name), number)
        self._objective = objective
        self._pruner = pruner

    def ends(self, epoch: int, metrics: Mapping[str, float], max_epochs: int | None) -> bool:
        """Return whether training ends after `epoch`, counted from 1."""
        value = metrics.get(self._objective)
        if value is None or value != value:  # a diverged training ends anyway
            return False
        self._storage.set_trial_intermediate_value(self._trial_id, epoch, value)
        if epoch == max_epochs:
            return False  # nothing is left to save
        trial = copy.copy(self._storage.get_trial(self._trial_id))
        values = trial.intermediate_values.items()  # a killed process may have reported later epochs
        trial.intermediate_values = {step: reported for step, reported in values if step <= epoch}
        if not self._prunes(trial):
            return False
        log.info("epoch %d: %s %g is behind the other trials: the training ends here", epoch, self._objective, value)
        return True

    def _prunes(self, trial: FrozenTrial) -> bool:
        name = type(self._pruner).__name__
        try:
            decision = self._pruner.prune(self._study, trial)
        except Exception as error:
            if is_outside(error):
                raise
            raise UserError(f"`search.pruner`: {name} failed ({error_text(error)}).") from error
        if decision not in (True, False):
            raise UserError(f"`search.pruner`: {name} must return true or false, but returned {decision!r}.")
        return bool(decision)

    def rungs(self) -> dict[str, float]:
        """Return what successive halving has recorded of the trial: its value at each rung that it has passed."""
        attributes = self._storage.get_trial(self._trial_id).system_attrs
        return {name: value for name, value in attributes.items() if name.startswith(_RUNG)}

    def go_on(self, rows: Sequence[Mapping[str, float]], rungs: Mapping[str, float]) -> None:
        """Copy to this trial the reports and rungs of the trial that it continues, without asking the pruner again."""
        known = self._storage.get_trial(self._trial_id)
        for row in rows:
            value = row[self._objective]
            if row["epoch"] not in known.intermediate_values and value == value:
                self._storage.set_trial_intermediate_value(self._trial_id, int(row["epoch"]), value)
        for name, value in rungs.items():
            if name.startswith(_RUNG) and name not in known.system_attrs:
                self._storage.set_trial_system_attr(self._trial_id, name, value)


def _competitors(study: optuna.Study) -> optuna.Study:
    """Return the study as a pruner sees it: without interrupted trials, whose values another trial continues."""
    seen = copy.copy(study)
    get_trials = study.get_trials

    def without_interrupted(*arguments: Any, **settings: Any) -> list[FrozenTrial]:
        trials = get_trials(*arguments, **settings)
        return [trial for trial in trials if result_of(trial).get("status") != Status.INTERRUPTED]

    seen.get_trials = without_interrupted  # type: ignore[method-assign]
    return seen
