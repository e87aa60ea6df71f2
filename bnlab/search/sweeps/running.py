"""A running sweep: launch its trials in batches, record how each ended, and show the progress."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from rich.console import Console

from bnlab.errors import UserError, error_text, one_line
from bnlab.internals.hydra_internals import error_of
from bnlab.process.outside import is_outside
from bnlab.process.shared_process import leave_removed_folder
from bnlab.process.signals import REQUESTS, is_handled_here
from bnlab.runs.summary import Summary
from bnlab.search.samplers.guard import GuardedSampler
from bnlab.search.study.pruning import waits_for_completed
from bnlab.search.study.storage import release
from bnlab.search.study.trials import Trial
from bnlab.search.sweeps.batches import Batches
from bnlab.search.sweeps.ending import Ending, count, say
from bnlab.search.sweeps.launcher import offers_of
from bnlab.search.sweeps.opening import open_study
from bnlab.search.sweeps.progress import SweepProgress
from bnlab.search.sweeps.results import Results
from bnlab.search.sweeps.retries import Retries
from bnlab.search.sweeps.setup import Setup
from bnlab.search.sweeps.watch import Watch
from bnlab.status import Status
from bnlab.text.command_line import shown

__all__ = ["RunningSweep"]


class RunningSweep:
    """The state of a sweep between its batches."""

    def __init__(self, setup: Setup) -> None:
        search = setup.search
        self._setup = setup
        self._folder = setup.folder
        self._own, self._plan = open_study(setup)
        self._results = Results(setup, self._own)
        before = self._results.trials()
        self._num_trials = search.num_points * search.settings.seeds
        self._sampler = search.sampler(num_done=len(before), num_points=setup.definition.num_points)
        self._own.study.sampler = GuardedSampler(self._sampler)
        self._batches = Batches(setup, self._own, self._plan, self._sampler, before, self._num_trials)
        self._console = Console()
        self._progress = SweepProgress(
            self._console,
            self._num_trials,
            [trial for trial in before if trial.is_finished],
            search.objective,
            search.minimize,
            search.settings.seeds,
        )
        self._stopped = ""  # the error, unless the user stopped it
        self._num_running = 0

    def run(self, launcher: Launcher) -> list[Trial]:
        self._offers = offers_of(launcher)
        self._results.num_threads = self._offers.num_threads_in_a_job
        num_parallel = self._offers.num_parallel
        self._retries = Retries(num_parallel)
        interrupted = False
        self._announce(num_parallel)
        with self._progress:
            try:
                while batch := self._batches.take(num_parallel):
                    self._launch(launcher, batch)
                    self._progress.print_line()
                    self._results.write_now_and_then()
                    for number in self._retries.take():
                        self._plan.try_again(number)
            except KeyboardInterrupt:
                interrupted = not self._stopped
            except Exception as error:
                if not is_outside(error):
                    self._results.write()  # before a mistake of the user's sampler ends the sweep
                    raise
                self._stopped = error_text(error)
        why = self._why_unfinished(interrupted)
        ending = Ending(self._setup, self._console, why_unfinished=why, is_interrupted=interrupted)
        return ending.finish(self._results, self._sampler, self._own.study)

    def _announce(self, num_parallel: int) -> None:
        lines = [f"{count(self._num_trials, 'trial')} in {shown(self._folder.path)}", *self._setup.search.notes]
        if self._offers.jobs_end_together and waits_for_completed(self._setup.definition.pruner):
            lines.append(
                "search/pruner=median compares a trial with those that have completed: of the first "
                f"{min(num_parallel, self._num_trials)} or fewer, which this launcher trains side by side, it "
                "ends none; search/pruner=successive_halving does."
            )
        for line in lines:
            say(self._console, line)

    def _why_unfinished(self, interrupted: bool) -> str:
        if interrupted:
            return "Interrupted."
        if self._stopped:
            return f"Stopped for a reason outside the trials: {self._stopped}."
        if self._retries.num_left:
            left = count(self._retries.num_left, "trial")
            return f"To be retried: {left}, for reasons outside the trials, most recently {self._retries.error}."
        return ""

    def _launch(self, launcher: Launcher, batch: Sequence[Trial]) -> None:
        """Run a batch to its end. If the launcher fails, launch the rest again without the job at which it failed."""
        left = list(batch)
        while left:
            leave_removed_folder()
            jobs = [self._batches.overrides(trial) for trial in left]
            watch = Watch(self, self._folder.path, {trial.number: self._batches.names[trial.number] for trial in left})
            try:
                with watch:
                    returns: Sequence[JobReturn | None] = launcher.launch(jobs, initial_job_idx=left[0].number)
            except KeyboardInterrupt:
                watch.collect()
                for number in filter(self.has_started, list(watch.open)):
                    self.tell(number, {"status": Status.INTERRUPTED})
                raise
            except BaseException as error:  # a Hydra callback may call sys.exit()
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

    def _after_failure(self, error: BaseException, unfinished: Sequence[Trial]) -> list[Trial]:
        """Return the trials to launch again; record the failure of those at which the launcher failed."""
        leave_removed_folder()
        left = []
        for trial in unfinished:
            if self.has_started(trial.number):
                text = f"the launcher failed: {error_text(error)}"
                self.tell(trial.number, Summary(status=Status.FAILED, error=text, outside=is_outside(error)))
                continue
            try:
                self._setup.loader.load_sweep_config(self._setup.config, self._batches.overrides(trial))
            except Exception as of_job:
                self.tell(trial.number, {"status": Status.FAILED, "error": one_line(of_job)})
            else:
                left.append(trial)
        return left

    def tell_return(self, number: int, job_return: JobReturn | None) -> None:
        """End a trial without a summary according to its return from the launcher."""
        if job_return is not None and job_return.status == JobStatus.COMPLETED:
            result = Summary(status=Status.COMPLETED, objective=job_return.return_value)
        else:
            error = None if job_return is None else error_of(job_return)
            text = "the launcher did not report how it ended" if error is None else error_text(error)
            result = Summary(status=Status.FAILED, error=text, outside=is_outside(error))
        self.tell(number, result)

    def tell(self, number: int, result: Summary) -> None:
        self._own.tell(number, result)
        is_lost = bool(result.get("outside"))
        trial = replace(
            self._batches.trials[number],
            status=Status.INTERRUPTED if is_lost else result["status"],
            objective=result.get("objective"),
            error=result.get("error", ""),
        )
        self._results.have_changed = True
        self._progress.ended(trial, is_lost=is_lost)
        self._retries.ended(trial, is_lost=is_lost)
        if self._retries.is_hopeless and not self._stopped:
            self._stopped = self._retries.error
            for request in filter(is_handled_here, REQUESTS):
                os.kill(os.getpid(), request)  # the launcher ends as the user would end it
                break

    def seen(self, num_running: int) -> None:
        """Update the display; called repeatedly while a batch runs, with the number of trials in progress."""
        leave_removed_folder()
        self._results.have_changed |= num_running != self._num_running
        self._num_running = num_running
        self._progress.update(num_running, self._offers.activity)
        self._results.write_now_and_then()

    def result(self, number: int) -> Summary | None:
        """Read a summary while a batch runs; in a new folder, it may lack the owner that another sweep's would name."""
        name = self._batches.names[number]
        if not self._folder.has_result(name):
            return None
        summary = self._folder.result(name)
        return (
            summary if summary is None or "sweep" not in summary else self._folder.own_result(name, self._own.sweep_id)
        )

    def returned(self, since: int) -> Mapping[int, JobReturn]:
        """Return the launcher's returns of jobs that have ended, by position in the batch, if it offers them early.

        Args:
            since: how many of them are already known.
        """
        returns = self._offers.returns
        if len(returns) <= since:
            return {}
        return dict(islice(dict(returns).items(), since, None))  # the launcher's threads may add to it meanwhile

    def has_started(self, number: int) -> bool:
        return self._folder.has_started(self._batches.names[number])

    def release(self) -> None:
        """Release this thread's connection; called at the end of a thread."""
        release(self._setup.storage)
