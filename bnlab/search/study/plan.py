"""Plans the trials that a study still needs, and takes them.

Every run of a search is enqueued in the study as a trial from the start. Taking a trial is atomic in the storage, so
that two sweeps never take the same one, and all trials of a killed sweep are either waiting or running.
"""

from typing import Any

from optuna.trial import FrozenTrial, TrialState

from bnlab.search.samplers.place import POINT
from bnlab.search.samplers.sweep_sampler import ALL_PLACES
from bnlab.search.study.design import Design
from bnlab.search.study.draws import Draws, params_of
from bnlab.search.study.own_study import OwnStudy
from bnlab.search.study.trials import REPEAT, Trial, result_of
from bnlab.status import Status

__all__ = ["Plan"]


class Plan:
    """The trials of a design in a study, for the sweep that sees the study as its own."""

    def __init__(self, own: OwnStudy, design: Design) -> None:
        self._own = own
        self._design = design
        self._draws = Draws(own, design)
        self._unstarted: list[FrozenTrial] = []

    def add_missing(self, retry_failed: bool = False) -> None:
        """Enqueue every run that is not finished, running or waiting; an interrupted one keeps its values.

        With `retry_failed`, failed runs are enqueued again, too.
        """
        self._draws.look()
        untried = iter(self._draws.untried())
        done: set[tuple[int, int]] = set()
        failed: set[tuple[int, int]] = set()  # those whose last try failed
        interrupted: dict[tuple[int, int], dict[str, Any]] = {}
        for trial in self._own.trials():
            place = (trial.user_attrs.get(POINT, -1), trial.user_attrs.get(REPEAT, 0))
            status = result_of(trial).get("status")
            if trial.state != TrialState.FAIL:
                done.add(place)
            elif retry_failed or status != Status.FAILED:
                interrupted[place] = params_of(trial)
                failed.discard(place)
            else:
                failed.add(place)
        for point in range(self._design.num_points):
            params_of_place = (
                self._draws.drawn.get(point) or next(untried, {}) if self._design.points is not None else {}
            )
            for repeat in range(self._design.seeds):
                if (point, repeat) not in done | failed:
                    params = interrupted.get((point, repeat)) or params_of_place
                    self._own.study.enqueue_trial(params, user_attrs={POINT: point, REPEAT: repeat})

    def try_again(self, number: int) -> None:
        """Enqueue the values of trial `number` for another try."""
        trial = self._own.trial(number)
        attributes = {key: trial.user_attrs[key] for key in (POINT, REPEAT) if key in trial.user_attrs}
        self._own.study.enqueue_trial(params_of(trial), user_attrs=attributes)

    def take_over(self, trial: FrozenTrial) -> None:
        """Let the next `take` return `trial`, which a killed sweep had taken but not started."""
        self._unstarted.append(trial)

    def has_values(self, trial: FrozenTrial) -> bool:
        """Whether `trial` has a value for each of its parameters."""
        return self._draws.has_all(trial)

    def take(self, limit: int, per_round: int | None) -> list[Trial]:
        """Take up to `limit` waiting trials; with `per_round` points per round, all from the first unfinished round.

        If the storage fails, the next call takes the same trials again.
        """
        taken: list[Trial] = []
        frozen: list[FrozenTrial] = []
        waiting = self._own.storage.get_all_trials(self._own.id, deepcopy=False, states=(TrialState.WAITING,))
        candidates = [*self._unstarted, *waiting]  # a retried trial comes last, though its round may be the first
        if per_round is not None and per_round != ALL_PLACES:  # else all are of one round
            rounds = [trial.user_attrs.get(POINT, trial.number) // per_round for trial in candidates]
            first = min(rounds, default=0)
            candidates = [trial for trial, of in zip(candidates, rounds, strict=True) if of == first]
        for trial in candidates:
            if len(taken) >= limit:
                break
            if trial in self._unstarted:
                self._unstarted.remove(trial)
            elif not self._own.takes(trial):
                continue
            frozen.append(trial)
            try:
                self._own.sign(trial)
                taken.append(self._draws.draw(trial))
            except BaseException:
                self._unstarted += frozen
                raise
        return taken
