"""Which trials a study still needs, taking them, and telling how they ended.

Every run that a search is to make waits in the study as a trial of its own from the start. Taking one is a single step
in the storage, so that two sweeps never take the same, and a killed one leaves nothing but trials that wait, or run.
"""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from bnlab.internals.optuna_internals import id_of
from bnlab.metrics import test_metric
from bnlab.process.outside import is_outside
from bnlab.runs.summary import Summary
from bnlab.search.samplers.fixed import FixedSampler
from bnlab.search.samplers.guard import draws_together
from bnlab.search.samplers.place import AGAIN, POINT
from bnlab.search.samplers.random_draws import RandomSampler
from bnlab.search.spaces.distributions import distribution_of, from_optuna, name_in_optuna, to_optuna
from bnlab.search.spaces.parameter import Parameter, Point
from bnlab.search.spaces.space import Space
from bnlab.search.study.storage import study_id, trial_id
from bnlab.search.study.trials import FOLDER, KEPT, REPEAT, RESULT, SUBDIR, SWEEP, folder_name, result_of
from bnlab.status import Status

__all__ = ["MOST_ENDS", "PATIENCE_S", "Plan", "TakenTrial"]

_NOBODYS_AFTER_S = 5.0
_WAIT_FOR_SIBLING_S = 10.0
PATIENCE_S = 60.0  # with a storage that fails
_REDRAWS = 200
MOST_ENDS = 5  # of its process, each time within the same trial
_ENDED_WITH_ITS_PROCESS = "its process was killed or ended; its values are tried again"


@dataclass(frozen=True)
class TakenTrial:
    """A trial that this sweep runs: its number, its configuration (by place and by value), and which seed of it."""

    number: int
    place: int
    repeat: int
    point: Point


class Plan:
    """The trials of `study`: `num_points` configurations, each `seeds` times.

    Args:
        points: of a grid, else None: the sampler draws them.
        sweep_id: this sweep's, by which it knows its trials.
        folder: where it is now.
        worst: the objective that stands for a training without a finite epoch.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: BaseStorage,
        space: Space,
        *,
        num_points: int,
        seeds: int,
        points: Sequence[Point] | None,
        sweep_id: str,
        folder: Path,
        worst: float,
    ) -> None:
        self._study = study
        self._storage = storage
        self._study_id = study_id(storage, study.study_name)
        self._space = space
        self._num_points = num_points
        self._seeds = seeds
        self._points = points
        self._sweep_id = sweep_id
        self._folder = folder
        self._worst = worst
        self._may_repeat = points is None and space.may_repeat
        self._params_of_point: dict[int, dict[str, Any]] = {}
        self._drawn: dict[int, dict[str, Any]] = {}  # what each place has, in Optuna's words
        self._unstarted: list[FrozenTrial] = []

    @property
    def num_trials(self) -> int:
        return self._num_points * self._seeds

    def add_missing(self, retry_failed: bool = False) -> None:
        """Let wait whatever no trial has done, does or waits to do; one that was interrupted gets its values again.

        With `retry_failed`, so does one that failed.
        """
        self._look_at_what_was_drawn()
        tried = set(map(_text, self._drawn.values()))
        of_points = map(self._in_optuna, self._points or ())
        untried = (params for params in of_points if _text(params) not in tried)
        done: set[tuple[int, int]] = set()
        failed: set[tuple[int, int]] = set()  # in their last try
        interrupted: dict[tuple[int, int], dict[str, Any]] = {}
        for trial in self._study.get_trials(deepcopy=False):
            place = (trial.user_attrs.get(POINT, -1), trial.user_attrs.get(REPEAT, 0))
            status = result_of(trial).get("status")
            if trial.state != TrialState.FAIL:
                done.add(place)
            elif retry_failed or status != Status.FAILED:
                interrupted[place] = trial.params or trial.system_attrs.get("fixed_params", {})
                failed.discard(place)
            else:
                failed.add(place)
        for point in range(self._num_points):
            params_of_place = self._drawn.get(point) or next(untried, {}) if self._points is not None else {}
            for repeat in range(self._seeds):
                if (point, repeat) not in done | failed:
                    params = interrupted.get((point, repeat)) or params_of_place
                    self._study.enqueue_trial(params, user_attrs={POINT: point, REPEAT: repeat})

    def try_again(self, number: int) -> None:
        """Let the values of trial `number` wait for another try."""
        trial = self._storage.get_trial(trial_id(self._storage, self._study_id, number))
        params = trial.params or trial.system_attrs.get("fixed_params", {})
        attributes = {key: trial.user_attrs[key] for key in (POINT, REPEAT) if key in trial.user_attrs}
        self._study.enqueue_trial(params, user_attrs=attributes)

    def _in_optuna(self, point: Point) -> dict[str, Any]:
        return {name_in_optuna(self._space[key]): to_optuna(self._space[key], value) for key, value in point.items()}

    def _look_at_what_was_drawn(self) -> None:
        for trial in self._study.get_trials(deepcopy=False):
            params = trial.params or trial.system_attrs.get("fixed_params", {})
            place = trial.user_attrs.get(POINT, trial.number)
            if params:
                self._drawn.setdefault(place, params)

    def own_folders(self) -> list[str]:
        """The names of the folders of the trials that this sweep has run, or runs."""
        return [
            folder_name(trial)
            for trial in self._study.get_trials(deepcopy=False)
            if trial.user_attrs.get(SWEEP) == self._sweep_id
        ]

    def recover(
        self,
        read_result: Callable[[str], Summary | None],
        has_started: Callable[[str], bool],
        is_damaged: Callable[[str], bool],
        goes_on: bool = False,
    ) -> None:
        """Take over the trials that this sweep's killed predecessor had taken; all three are asked by a folder's name.

        One that ended is told so, a half-done one that it failed; one that had not started is taken again. What was
        alone half done when its process ended is tried again, for others may have ended that; what is so `MOST_ENDS`
        times is taken for what ends it, and has failed, unless the half-done `goes_on` from where it was.
        A result is no use without its values, which a damaged journal may have lost: that one is tried again, too.
        """
        half_done: list[FrozenTrial] = []
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            owner = trial.user_attrs.get(SWEEP)
            if owner is None:
                owner = self._owner_after_a_while(trial)
                if owner is None:  # its sweep was killed between taking it and saying so
                    self._tell_interrupted(trial.number)
            elif owner == self._sweep_id:
                name = folder_name(trial)
                if is_damaged(name):
                    self._tell_interrupted(trial.number)
                    continue
                result = read_result(name)
                if result is not None and result["status"] != Status.INTERRUPTED and self._has_all(trial):
                    self.tell(trial.number, result)
                elif result is not None:
                    self._tell_interrupted(trial.number)
                elif has_started(name):
                    half_done.append(trial)
                else:
                    self._unstarted.append(trial)
        for trial in half_done:
            if len(half_done) > 1 or goes_on:
                self._tell_interrupted(trial.number)
            elif self._num_ends_with_its_process(trial) + 1 >= MOST_ENDS:
                error = f"its process was killed or ended, {MOST_ENDS} times"
                self.tell(trial.number, {"status": Status.FAILED, "error": error})
            else:
                self.tell(trial.number, {"status": Status.INTERRUPTED, "error": _ENDED_WITH_ITS_PROCESS})

    def _num_ends_with_its_process(self, trial: FrozenTrial) -> int:
        """How often it is tried again because it was half done when its process ended."""
        return sum(
            result_of(earlier).get("error") == _ENDED_WITH_ITS_PROCESS
            and [earlier.user_attrs.get(key) for key in (POINT, REPEAT)]
            == [trial.user_attrs.get(key) for key in (POINT, REPEAT)]
            for earlier in self._study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        )

    def _owner_after_a_while(self, trial: FrozenTrial) -> str | None:
        """The id of the sweep that runs `trial`, which another machine may have taken a moment ago."""
        deadline = time.monotonic() + (0 if self._is_private else _NOBODYS_AFTER_S)
        while True:
            owner: str | None = self._storage.get_trial(self._id_of(trial)).user_attrs.get(SWEEP)
            if owner is not None or time.monotonic() >= deadline:
                return owner
            time.sleep(0.2)

    def _id_of(self, trial: FrozenTrial) -> int:
        return id_of(trial, self._storage, self._study_id)

    @property
    def _is_private(self) -> bool:
        return isinstance(self._storage, optuna.storages.JournalStorage)

    def _tell_interrupted(self, number: int) -> None:
        self.tell(number, {"status": Status.INTERRUPTED, "error": "interrupted; its values are tried again"})

    def take(self, limit: int, per_round: int | None) -> list[TakenTrial]:
        """Up to `limit` trials that waited; with `per_round` points in a round, all of the first of which some wait.

        Where the storage fails, the next call takes again what this one had taken.
        """
        taken: list[TakenTrial] = []
        frozen: list[FrozenTrial] = []
        waiting = self._storage.get_all_trials(self._study_id, deepcopy=False, states=(TrialState.WAITING,))
        candidates = [*self._unstarted, *waiting]  # what is tried again comes last, though its round may be the first
        if per_round is not None:
            rounds = [trial.user_attrs.get(POINT, trial.number) // per_round for trial in candidates]
            first = min(rounds, default=0)
            candidates = [trial for trial, of in zip(candidates, rounds, strict=True) if of == first]
        for trial in candidates:
            if len(taken) >= limit:
                break
            if trial in self._unstarted:
                self._unstarted.remove(trial)
            elif not self._takes(trial):
                continue
            frozen.append(trial)
            try:
                taken.append(self._start(trial))
            except BaseException:
                self._unstarted += frozen
                raise
        return taken

    def _takes(self, trial: FrozenTrial) -> bool:
        """Whether `trial` is this sweep's now; another was faster if not, and may even have finished it."""
        try:
            return self._storage.set_trial_state_values(self._id_of(trial), state=TrialState.RUNNING)
        except optuna.exceptions.UpdateFinishedTrialError:
            return False

    def _start(self, frozen: FrozenTrial) -> TakenTrial:
        """Say whose it is, and draw its values, those that it does not have yet."""
        self._storage.set_trial_user_attr(self._id_of(frozen), SWEEP, self._sweep_id)
        if not self._is_private:
            self._storage.set_trial_user_attr(self._id_of(frozen), FOLDER, str(self._folder))
        place = frozen.user_attrs.get(POINT, frozen.number)
        repeat = frozen.user_attrs.get(REPEAT, 0)
        params = self._params_of(place) if repeat else None
        if params is None and self._may_repeat and not frozen.system_attrs.get("fixed_params"):
            params = self._drawn_anew(frozen, place)
        sampler = self._study.sampler
        if params is not None:
            self._study.sampler = FixedSampler(params)
        try:
            trial = optuna.Trial(self._study, self._id_of(frozen))
            point = self._space.draw(lambda parameter: _suggest(trial, parameter))
        finally:
            self._study.sampler = sampler
        if self._seeds > 1:
            self._params_of_point[place] = trial.params
        if self._may_repeat:
            self._drawn[place] = trial.params
        return TakenTrial(frozen.number, place, repeat, point)

    def _drawn_anew(self, frozen: FrozenTrial, place: int) -> dict[str, Any]:
        """What the sampler draws, until it is no configuration that another place has: it would train alike."""
        if not self._is_private:
            self._look_at_what_was_drawn()
        others = {_text(params) for other, params in self._drawn.items() if other != place}
        sampler: BaseSampler = self._study.sampler
        sampler.before_trial(self._study, frozen)
        together: dict[str, BaseDistribution] = {}
        relative: dict[str, Any] = {}
        if draws_together(sampler):  # once: what comes up again is drawn one by one
            together = sampler.infer_relative_search_space(self._study, frozen)
            relative = sampler.sample_relative(self._study, frozen, together)
        for again in range(_REDRAWS):
            trial = copy.copy(frozen)
            trial.user_attrs = frozen.user_attrs | ({AGAIN: again} if again else {})
            params: dict[str, Any] = {}

            def value_of(parameter: Parameter) -> Any:
                name, distribution = name_in_optuna(parameter), distribution_of(parameter)
                if not again and name in relative and together[name] == distribution:  # noqa: B023
                    params[name] = relative[name]  # noqa: B023
                else:
                    params[name] = sampler.sample_independent(self._study, trial, name, distribution)  # noqa: B023
                return from_optuna(parameter, params[name])  # noqa: B023

            self._space.draw(value_of)
            if _text(params) not in others:
                break
            if again == _REDRAWS // 2:  # of one that learns and has come to rest
                sampler = RandomSampler(place)
        return params

    def place(self, number: int, name: str) -> None:
        """Keep that the folder of trial `number` is `name`, relative to the sweep's."""
        self._storage.set_trial_user_attr(trial_id(self._storage, self._study_id, number), SUBDIR, name)

    def _params_of(self, point: int) -> dict[str, Any] | None:
        """What another seed of the same configuration has; it may be drawing at this moment, on another machine."""
        deadline = time.monotonic() + _WAIT_FOR_SIBLING_S
        while point not in self._params_of_point:
            siblings = [
                trial
                for trial in self._study.get_trials(deepcopy=False)
                if trial.user_attrs.get(POINT) == point and trial.user_attrs.get(REPEAT) == 0 and trial.params
            ]
            complete = [trial for trial in siblings if self._has_all(trial)]
            if complete:
                self._params_of_point[point] = complete[-1].params
            elif time.monotonic() > deadline:
                return None
            else:
                time.sleep(0.05)
        return self._params_of_point[point]

    def _has_all(self, trial: FrozenTrial) -> bool:
        point: Point = {}
        for parameter in self._space.in_order_of_dependence():
            if self._space.is_active(parameter, point):
                name = name_in_optuna(parameter)
                if name not in trial.params:
                    return False
                point[parameter.key] = from_optuna(parameter, trial.params[name])
        return True

    def tell(self, number: int, result: Summary) -> None:
        """End trial `number` as the summary of its run says.

        One that failed for reasons from "outside" (`bnlab.process.outside`) was interrupted. A storage that fails is
        asked again, for a while; what it had done of the first try is not done twice.
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
        identifier = trial_id(self._storage, self._study_id, number)
        if self._storage.get_trial(identifier).state.is_finished():
            return
        status = Status.INTERRUPTED if result.get("outside") else result["status"]
        tested = test_metric(result)
        kept = {
            "status": status,
            **dict.fromkeys(KEPT),
            "error": result.get("error", ""),
            **{name: value for name, value in result.items() if name in (*KEPT, tested)},
        }
        self._storage.set_trial_user_attr(identifier, RESULT, kept)
        if status.is_ranked:
            value = result.get("objective")
            self._study.tell(number, self._worst if value is None else value)
        else:
            self._study.tell(number, state=TrialState.PRUNED if status == Status.PRUNED else TrialState.FAIL)


def _text(params: Mapping[str, Any]) -> str:
    return repr(sorted(params.items()))


def _suggest(trial: optuna.Trial, parameter: Parameter) -> Any:
    name, distribution = name_in_optuna(parameter), distribution_of(parameter)
    if isinstance(distribution, FloatDistribution):
        value: Any = trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
    elif isinstance(distribution, IntDistribution):
        value = trial.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    else:
        assert isinstance(distribution, CategoricalDistribution)
        value = trial.suggest_categorical(name, distribution.choices)
    return from_optuna(parameter, value)
