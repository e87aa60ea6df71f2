"""Optuna's private names; without them, the storage is queried."""

from typing import Any

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

__all__ = ["id_of"]


def id_of(trial: FrozenTrial, storage: BaseStorage, study_id: int) -> int:
    """Return the id of the trial in the storage."""
    known: Any = getattr(trial, "_trial_id", None)
    return storage.get_trial_id_from_study_id_trial_number(study_id, trial.number) if known is None else int(known)
