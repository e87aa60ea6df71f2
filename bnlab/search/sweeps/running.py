"""A sweep while it runs: take trials, launch them in batches, tell, show, and write the results."""

import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig
from optuna.storages import BaseStorage, JournalStorage
from rich.console import Console

from bnlab.errors import UserError, one_line, reason
from bnlab.internals.hydra_internals import error_of
from bnlab.io.atomic_file import to_disk
from bnlab.process.outside import is_outside, wait_for_room
from bnlab.process.shared_process import leave_removed_folder
from bnlab.process.signals import EXIT_INTERRUPTED, REQUESTS, is_for_us
from bnlab.runs.own_figures import draw_own_figures
from bnlab.runs.summary import Summary
from bnlab.runs.sweeps import load_sweep
from bnlab.search.definition.composition import SweepConfigLoader
from bnlab.search.definition.search import Search
from bnlab.search.definition.subdir import Subdirs, job_override
from bnlab.search.results.ablation import write_ablation
from bnlab.search.results.figure import write_figure
from bnlab.search.results.leaderboard import Leaderboard
from bnlab.search.results.rounds import rounds_of
from bnlab.search.samplers.guard import GuardedSampler
from bnlab.search.samplers.sweep_sampler import SweepSampler
from bnlab.search.study.changes import Settings, of_the_task
from bnlab.search.study.folder import Definition, SweepFolder, is_owned, resume_command
from bnlab.search.study.plan import PATIENCE_S, Plan, TakenTrial
from bnlab.search.study.pruning import waits_for_completed
from bnlab.search.study.storage import declare_planned, join_or_create, release
from bnlab.search.study.trials import Trial, read_trials
from bnlab.search.sweeps.launcher import offers_of
from bnlab.search.sweeps.progress import SweepProgress
from bnlab.search.sweeps.retries import IN_A_ROW, Retries
from bnlab.search.sweeps.trust import needs_trust
from bnlab.search.sweeps.watch import Watch
from bnlab.status import Status
from bnlab.text.command_line import shown
from bnlab.text.concealing import holds_address_secret

__all__ = ["RunningSweep"]

EXIT_FAILED = 1

_WRITE_EVERY_S = 5.0
_WRITE_FOR_OTHERS_EVERY_S = 60.0  # what they do in a shared study is not seen here


class RunningSweep:
    """The state of a sweep between its batches."""

    def __init__(
        self,
        search: Search,
        definition: Definition,
        settings: Settings,
        folder: SweepFolder,
        storage: BaseStorage,
        config: DictConfig,
        loader: SweepConfigLoader,
        subdirs: Subdirs,
        *,
        resumes: bool,
    ) -> None:
        self._config = config
        self._loader = loader
        self._search = search
        self._definition = definition
        self._folder = folder
        self._storage = storage
        self._subdirs = subdirs
        self._names: dict[int, str] = {}  # of the folders of the trials that this process took
        self._taken_names: set[str] = set()
        self._study, is_new = join_or_create(
            storage,
            definition.study,
            search.minimize,
            search.signature(),
            of_the_task(settings),
            resumes=resumes,
            must_exist=resumes and not folder.lost_trials and (folder.trials.is_file() or bool(folder.numbered())),
        )
        self._plan = Plan(
            self._study,
            storage,
            search.space,
            num_points=search.num_points,
            seeds=search.settings.seeds,
            points=search.points,
            sweep_id=definition.id,
            folder=folder.path,
            worst=search.worst,
        )
        if resumes:
            folder.check_is_own(self._plan.own_folders(), definition.id)
            goes_on = any(folder.unfinished.glob("*.ckpt"))
            self._plan.recover(self._own_result, folder.has_started, folder.set_damaged_files_aside, goes_on)
        if is_new or resumes:
            self._plan.add_missing(search.settings.retry_failed)
            declare_planned(self._study)
        before = self._trials()
        self._points_taken = {trial.point for trial in before}
        self._seed_of: dict[int, tuple[int, int]] = {}  # place and repeat of a trial of this process
        self._sampler = search.sampler(num_done=len(before), num_points=definition.num_points)
        self._study.sampler = GuardedSampler(self._sampler)
        self._console = Console()
        self._progress = SweepProgress(
            self._console,
            self._plan.num_trials,
            [trial for trial in before if trial.is_finished],
            search.objective,
            search.minimize,
            search.settings.seeds,
        )
        self._num_threads: int | None = None
        self._stopped = ""  # why, where not the user did it
        self._next_write = self._next_write_unchanged = time.monotonic()
        self._has_changed = True  # since the results were written
        self._num_running = 0

    def run(self, launcher: Launcher) -> list[Trial]:
        self._offers = offers_of(launcher)
        self._num_threads = self._offers.num_threads_in_a_job
        num_parallel = self._offers.num_parallel
        self._retries = Retries(num_parallel)
        interrupted = False
        self._say(f"{_count(self._plan.num_trials, 'trial')} in {shown(self._folder.path)}")
        for note in self._search.notes:
            self._say(note)
        if self._offers.jobs_end_together and waits_for_completed(self._definition.pruner):
            self._say(
                "search/pruner=median compares a trial with those that have completed: of the first "
                f"{min(num_parallel, self._plan.num_trials)} or fewer, which this launcher trains side by side, it "
                "ends none; search/pruner=successive_halving does."
            )
        with self._progress:
            try:
                while batch := self._take_patiently(num_parallel):
                    self._launch(launcher, batch)
                    self._progress.print_line()
                    self._write_now_and_then()
                    for number in self._retries.take():
                        self._plan.try_again(number)
            except KeyboardInterrupt:
                interrupted = not self._stopped
            except Exception as error:
                if not is_outside(error):
                    self._write()  # what there is, before a mistake of the user's sampler ends the sweep
                    raise
                self._stopped = reason(error)
        return self._finish(interrupted)

    def _say(self, line: str) -> None:
        """As it is: a folder may be called [red]."""
        self._console.out(line, highlight=False)

    def _trials(self) -> list[Trial]:
        return read_trials(self._study, self._search.space, self._definition.id, self._folder.path)

    def _take_patiently(self, num_parallel: int) -> list[TakenTrial]:
        """The next batch, when there is room for its folders and the storage answers."""
        for attempt in range(IN_A_ROW):
            self._wait_for_room()
            try:
                return self._take(num_parallel)
            except Exception as error:
                if not is_outside(error) or attempt == IN_A_ROW - 1:
                    raise
        return []

    def _wait_for_room(self) -> None:
        """
        Raises:
            OSError: there is none, for long.
        """
        error = wait_for_room(self._folder.path, PATIENCE_S)
        if error is not None:
            raise error

    def _take(self, num_parallel: int) -> list[TakenTrial]:
        """The next batch: what does not depend on each other's results."""
        per_round = None
        if isinstance(self._sampler, SweepSampler):
            per_round = self._sampler.places_per_round(len(self._points_taken))
        settings = self._search.settings
        at_once = max(num_parallel, settings.seeds) if per_round is None else self._plan.num_trials
        batch = self._plan.take(settings.batch_size or at_once, per_round)
        self._points_taken.update(trial.place for trial in batch)
        self._seed_of |= {trial.number: (trial.place, trial.repeat) for trial in batch}
        for trial in batch:
            self._names[trial.number] = name = self._place(trial)
            self._taken_names.add(name)
        return batch

    def _place(self, trial: TakenTrial) -> str:
        """The name of its folder, which is a new one even where others left theirs, or it is tried again."""
        try:
            name = self._subdirs.name(trial.number, trial.point, trial.repeat)
        except Exception:  # a job that cannot be composed; that is told where it is launched
            return str(trial.number)
        if name in self._taken_names or self._folder.trial(name).exists():
            name += f"-{trial.number}"
        if name != str(trial.number):
            self._plan.place(trial.number, name)
        return name

    def _launch(self, launcher: Launcher, batch: Sequence[TakenTrial]) -> None:
        """Run a batch to its end. What a failing launcher leaves is launched again, without the job it fell over."""
        left = list(batch)
        while left:
            leave_removed_folder()
            jobs = [self._job(trial) for trial in left]
            watch = Watch(self, self._folder.path, {trial.number: self._names[trial.number] for trial in left})
            try:
                with watch:
                    returns: Sequence[JobReturn | None] = launcher.launch(jobs, initial_job_idx=left[0].number)
            except KeyboardInterrupt:
                watch.collect()
                for number in filter(self.has_started, list(watch.open)):
                    self.tell(number, {"status": Status.INTERRUPTED})
                raise
            except BaseException as error:  # a callback of Hydra's may call sys.exit()
                watch.collect()
                again = self._after_failure(error, [trial for trial in left if trial.number in watch.open])
                if len(again) == len(left) and is_outside(error):
                    raise
                if len(again) == len(left):
                    raise UserError(f"The launcher cannot start a job: {one_line(error)}") from error
                left = again
            else:
                watch.collect()
                for trial, job_return in zip(left, returns, strict=True):
                    if trial.number in watch.open:
                        self.tell_return(trial.number, job_return)
                left = []
        self._progress.update(num_running=0)

    def _job(self, trial: TakenTrial) -> list[str]:
        return [*self._search.overrides(trial.point, trial.repeat), job_override(self._names[trial.number])]

    def _after_failure(self, error: BaseException, unfinished: Sequence[TakenTrial]) -> list[TakenTrial]:
        """The trials to launch again; those that the launcher failed at are told so."""
        leave_removed_folder()
        left = []
        for trial in unfinished:
            if self.has_started(trial.number):
                text = f"the launcher failed: {reason(error)}"
                self.tell(trial.number, Summary(status=Status.FAILED, error=text, outside=is_outside(error)))
                continue
            try:
                self._loader.load_sweep_config(self._config, self._job(trial))
            except Exception as reason_of_job:
                self.tell(trial.number, {"status": Status.FAILED, "error": one_line(reason_of_job)})
            else:
                left.append(trial)
        return left

    def tell_return(self, number: int, job_return: JobReturn | None) -> None:
        """End a trial that left no summary, by what the launcher says of it."""
        if job_return is not None and job_return.status == JobStatus.COMPLETED:
            result = Summary(status=Status.COMPLETED, objective=job_return.return_value)
        else:
            error = None if job_return is None else error_of(job_return)
            text = "the launcher said nothing of it" if error is None else reason(error)
            result = Summary(status=Status.FAILED, error=text, outside=is_outside(error))
        self.tell(number, result)

    def tell(self, number: int, result: Summary) -> None:
        self._plan.tell(number, result)
        self.ended(number, result)

    def ended(self, number: int, result: Summary) -> None:
        place, repeat = self._seed_of[number]
        is_lost = bool(result.get("outside"))
        status, error = Status.INTERRUPTED if is_lost else result["status"], result.get("error", "")
        self._has_changed = True
        self._progress.ended(number, status, result.get("objective"), error, place, repeat, is_lost=is_lost)
        self._retries.ended(number, (place, repeat), result)
        if self._retries.is_no_use and not self._stopped:
            self._stopped = self._retries.reason
            for request in filter(is_for_us, REQUESTS):
                os.kill(os.getpid(), request)  # the launcher ends as the user would end it
                break

    def seen(self, num_running: int) -> None:
        """Called again and again while a batch runs, with the number of trials under way."""
        leave_removed_folder()
        self._has_changed |= num_running != self._num_running
        self._num_running = num_running
        self._progress.update(num_running, self._offers.activity)
        self._write_now_and_then()

    def result(self, number: int) -> Summary | None:
        """While a batch runs, in a folder that is new: it may lack the identity, which another sweep's would have."""
        name = self._names[number]
        if not self._folder.has_result(name):
            return None
        summary = self._folder.result(name)
        return summary if summary is None or "sweep" not in summary else self._own_result(name)

    def _own_result(self, name: str) -> Summary | None:
        """What the folder `name` says, if a trial of this sweep wrote it there."""
        summary = self._folder.result(name)
        return summary if summary is not None and is_owned(summary, self._definition.id, name) else None

    def returned(self, since: int) -> Mapping[int, JobReturn]:
        """What the launcher says of jobs that have ended, by their place in the batch, if it does before the last.

        Args:
            since: how many of them are known already.
        """
        returns = self._offers.returns
        if len(returns) <= since:
            return {}
        return dict(islice(dict(returns).items(), since, None))  # threads of the launcher go on adding to it

    def has_started(self, number: int) -> bool:
        return self._folder.has_started(self._names[number])

    def release(self) -> None:
        """Called by a thread at its end."""
        release(self._storage)

    def _write_now_and_then(self) -> None:
        """At most a twentieth of the time, however many trials there are to write."""
        start = time.monotonic()
        if start > (self._next_write if self._has_changed else self._next_write_unchanged):
            self._has_changed = False
            try:
                self._write()
            except OSError as error:
                if not is_outside(error):
                    raise
                self._has_changed = True  # it comes later
            now = time.monotonic()
            cost = 20 * (now - start)
            self._next_write = now + max(_WRITE_EVERY_S, cost)
            is_private = isinstance(self._storage, JournalStorage)
            self._next_write_unchanged = math.inf if is_private else now + max(_WRITE_FOR_OTHERS_EVERY_S, cost)

    def _write(self) -> Leaderboard:
        leaderboard = Leaderboard(
            self._trials(),
            self._search.space,
            self._search.fixed,
            self._search.objective,
            self._search.minimize,
            self._search.settings.seeds,
            self._search.base_seed,
            self._num_threads,
            self._definition.origin,
            self._search.names,
        )
        leaderboard.write(self._folder)
        return leaderboard

    def _finish(self, interrupted: bool) -> list[Trial]:
        try:
            leaderboard = self._write()
            to_disk([self._folder.path])
        except Exception as error:
            if not is_outside(error):
                raise
            self._say(f"The results cannot be written: {reason(error)}")
            self._say_how_to_go_on(interrupted)
            raise SystemExit(EXIT_INTERRUPTED if interrupted else EXIT_FAILED) from None
        say = self._console.print
        with _going_on("the table"):
            table = leaderboard.table(self._console.width)
            if table is not None:
                say(table)
        num_failed = leaderboard.counts()[Status.FAILED]
        if num_failed:
            self._say(f"{num_failed} of {len(leaderboard.trials)} trials failed: see {shown(self._folder.leaderboard)}")
        with _going_on(self._folder.ablation[0].name):
            if write_ablation(leaderboard, self._folder):
                self._say(f"Mean ± deviation over seeds, with differences: {shown(self._folder.ablation[0])}")
        with _going_on(self._folder.figures[0].name):
            rounds, trials_per_round = rounds_of(self._sampler, self._study, self._search.space, leaderboard.trials)
            write_figure(leaderboard, self._folder, rounds, trials_per_round)
            if self._folder.figures[0].is_file():
                self._say(f"Picture: {shown(self._folder.figures[0])}")
        own = self._search.settings.figures
        for line in draw_own_figures(own, self._folder.path, partial(load_sweep, self._folder.path)):
            self._say(line)
        goes_on = interrupted or self._stopped or self._retries.num_left
        if not goes_on:
            shutil.rmtree(self._folder.unfinished, ignore_errors=True)  # of trials that failed
        if goes_on:
            self._say_how_to_go_on(interrupted)
        elif leaderboard.best is not None:
            self._say(f"Run the best again:\n{leaderboard.command(leaderboard.best)}")
        if interrupted:
            raise SystemExit(EXIT_INTERRUPTED)
        if num_failed or goes_on:
            raise SystemExit(EXIT_FAILED)
        return list(leaderboard.trials)

    def _say_how_to_go_on(self, interrupted: bool) -> None:
        if interrupted:
            why = "Interrupted."
        elif self._stopped:
            why = f"Stopped, for reasons that are not the trials' own: {self._stopped}."
        else:
            left = _count(self._retries.num_left, "trial")
            why = f"To be tried again: {left}, for reasons not their own, at last {self._retries.reason}."
        trust = needs_trust(self._definition, self._config)
        is_unknown = self._definition.storage is not None and holds_address_secret(self._definition.storage)
        given = ", with the address of the study in the variable STUDY" if is_unknown else ""
        line = resume_command(self._folder, trust=trust, asks_for_storage=is_unknown)
        self._say(f"{why} Continue with{given}:\n{line}")


@contextmanager
def _going_on(what: str) -> Iterator[None]:
    """Log in a line that `what` cannot be shown, and go on: the results are written, and the ending says the rest."""
    try:
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        logging.getLogger(__name__).warning("%s cannot be shown: %s", what, reason)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
