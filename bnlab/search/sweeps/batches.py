"""The batches of trials that a sweep takes, and their folders."""

from collections.abc import Iterable

from optuna.samplers import BaseSampler

from bnlab.process.outside import is_outside, wait_for_room
from bnlab.search.definition.subdir import job_override
from bnlab.search.samplers.sweep_sampler import SweepSampler
from bnlab.search.study.own_study import PATIENCE_S, OwnStudy
from bnlab.search.study.plan import Plan
from bnlab.search.study.trials import Trial
from bnlab.search.sweeps.retries import IN_A_ROW
from bnlab.search.sweeps.setup import Setup

__all__ = ["Batches"]


class Batches:
    """Takes the trials of a sweep, batch by batch.

    Args:
        sampler: draws the values, perhaps in rounds.
        before: the trials that were already in the study.
    Attributes:
        trials: the trials taken by this process, by number.
        names: the names of their folders, by number.
    """

    def __init__(
        self, setup: Setup, own: OwnStudy, plan: Plan, sampler: BaseSampler, before: Iterable[Trial], num_trials: int
    ) -> None:
        self._setup = setup
        self._own = own
        self._plan = plan
        self._sampler = sampler
        self._num_trials = num_trials
        self._points_taken = {trial.point for trial in before}
        self._taken_names: set[str] = set()
        self.trials: dict[int, Trial] = {}
        self.names: dict[int, str] = {}

    def take(self, num_parallel: int) -> list[Trial]:
        """Take the next batch, once there is room for its folders and the storage answers."""
        for attempt in range(IN_A_ROW):
            self._wait_for_room()
            try:
                return self._take(num_parallel)
            except Exception as error:
                if not is_outside(error) or attempt == IN_A_ROW - 1:
                    raise
        return []

    def _wait_for_room(self) -> None:
        """Wait until the disk has room.

        Raises:
            OSError: it has had none for too long.
        """
        error = wait_for_room(self._setup.folder.path, PATIENCE_S)
        if error is not None:
            raise error

    def _take(self, num_parallel: int) -> list[Trial]:
        """Take trials that do not depend on each other's results."""
        per_round = None
        if isinstance(self._sampler, SweepSampler):
            per_round = self._sampler.places_per_round(len(self._points_taken))
        settings = self._setup.search.settings
        at_once = max(num_parallel, settings.seeds) if per_round is None else self._num_trials
        batch = self._plan.take(settings.batch_size or at_once, per_round)
        self._points_taken.update(trial.place for trial in batch)
        self.trials |= {trial.number: trial for trial in batch}
        for trial in batch:
            self.names[trial.number] = name = self._name(trial)
            self._taken_names.add(name)
        return batch

    def _name(self, trial: Trial) -> str:
        """Choose a new name for the trial's folder, even if another trial or try has taken the usual one."""
        try:
            name = self._setup.subdirs.name(trial.number, trial.values, trial.repeat)
        except Exception:  # a job that cannot be composed is reported when it is launched
            return str(trial.number)
        if name in self._taken_names or self._setup.folder.trial(name).exists():
            name += f"-{trial.number}"
        if name != str(trial.number):
            self._own.place(trial.number, name)
        return name

    def overrides(self, trial: Trial) -> list[str]:
        """Return the overrides of the trial's job."""
        return [*self._setup.search.overrides(trial.values, trial.repeat), job_override(self.names[trial.number])]
