"""Optuna's private names, all asked for here: without one, the storage is asked, which takes a query."""

from typing import Any

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

__all__ = ["id_of"]


def id_of(trial: FrozenTrial, storage: BaseStorage, study_id: int) -> int:
    """What the storage knows the trial by."""
    known: Any = getattr(trial, "_trial_id", None)
    return storage.get_trial_id_from_study_id_trial_number(study_id, trial.number) if known is None else int(known)
