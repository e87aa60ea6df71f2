"""A sweep from its first to its last trial: plan, launch in batches, tell, show, and leave the results."""

import logging
import re
import shlex
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from optuna.storages import BaseStorage
from rich.console import Console

from bnlab.errors import UserError, one_line, reason
from bnlab.search.composition import SUBDIR, SweepConfigLoader
from bnlab.search.definition import Search, read_search
from bnlab.search.distributions import name_in_optuna
from bnlab.search.folder import Definition, SweepFolder, key_of, shown, without
from bnlab.search.job import Job
from bnlab.search.journal import mend
from bnlab.search.leaderboard import Leaderboard
from bnlab.search.plan import Plan, TakenTrial
from bnlab.search.progress import SweepProgress
from bnlab.search.samplers import build_sampler
from bnlab.search.storage import close, declare_planned, join_or_create, open_storage, release
from bnlab.search.trials import Trial, read_trials
from bnlab.signals import EXIT_INTERRUPTED

__all__ = ["EXIT_FAILED", "EXIT_INTERRUPTED", "sweep"]

EXIT_FAILED = 1

NUM_STARTUP = 10  # random configurations before TPE learns from them
_POLL_S = 0.2
_WRITE_EVERY_S = 5.0

_MAY_CHANGE = ("search.num_trials", "search.batch_size", "search.storage", "search.pruner")


def sweep(hydra_context: HydraContext, task: TaskFunction, config: DictConfig, arguments: Sequence[str]) -> list[Trial]:
    """Search, from Hydra's multirun config and the overrides of its settings.

    Returns:
        the trials, where all of them have a result.
    Raises:
        UserError: something that cannot work, found before any job.
        SystemExit: 1 if a trial failed, 130 if the sweep was interrupted; its results are written.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    loader = SweepConfigLoader(hydra_context.config_loader)
    resume = OmegaConf.select(config, "search.resume")
    if resume is not None:
        folder = SweepFolder(Path(str(resume)).resolve())
        stored = folder.read_definition()
        config, arguments = _resumed(config, arguments, stored, loader)
    else:
        folder, stored = SweepFolder(Path(config.hydra.sweep.dir).resolve()), None
        if folder.definition.exists():
            raise UserError(
                f"{shown(folder.path)!r} already holds a sweep: go on with it by "
                f"search.resume={shown(folder.path)}, or choose another folder."
            )
    _fix_folder(config, folder)
    search = read_search(config, arguments, loader)
    context = HydraContext(config_loader=loader, callbacks=hydra_context.callbacks)
    HydraConfig.instance().set_config(config)
    launcher = Plugins.instance().instantiate_launcher(config=config, hydra_context=context, task_function=Job(task))
    with folder.lock():
        mend(folder.journal)
        definition = _definition(search, config, arguments, folder, stored)
        storage = open_storage(search.settings.storage, folder.journal)
        try:
            folder.write_definition(definition)
            running = _Sweep(search, definition, folder, storage, config, loader, resumes=stored is not None)
            return running.run(launcher)
        finally:
            close(storage)


def _resumed(
    config: DictConfig, arguments: Sequence[str], stored: Definition, loader: SweepConfigLoader
) -> tuple[DictConfig, list[str]]:
    """The config and overrides of the stored sweep, with the new launcher and the few settings that may change."""
    new = without(arguments, "search.resume")
    for override in new:
        if key_of(override) not in _MAY_CHANGE:
            raise UserError(
                f"A resumed sweep keeps its settings, so that {override!r} cannot be given: only the launcher, "
                f"{', '.join(_MAY_CHANGE)} may change."
            )
    task = [*without(stored.overrides, *map(key_of, new)), *new]
    of_hydra = list(config.hydra.overrides.hydra)
    of_hydra = [*without(stored.hydra_overrides, *map(key_of, of_hydra)), *of_hydra]
    return (
        loader.load_configuration(config.hydra.job.config_name, [*of_hydra, *task], run_mode=RunMode.MULTIRUN),
        task,
    )


def _fix_folder(config: DictConfig, folder: SweepFolder) -> None:
    """Every job goes below `folder`, whatever its process has as the current directory, and however late it starts."""
    path = str(folder.path).replace("${", "\\${")  # no interpolation
    config.hydra.sweep.dir = path
    escaped = re.sub(r"(\\*)('|\Z)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), path)
    kept = without(list(config.hydra.overrides.hydra), "hydra.sweep.dir")
    with open_dict(config.hydra):
        config.hydra.overrides.hydra = [*kept, f"hydra.sweep.dir='{escaped}'"]


def _definition(
    search: Search, config: DictConfig, arguments: Sequence[str], folder: SweepFolder, stored: Definition | None
) -> Definition:
    settings = search.settings
    storage: Any = config.search._get_node("storage")
    return Definition(
        overrides=list(arguments),
        hydra_overrides=without(list(config.hydra.overrides.hydra), "hydra.sweep.dir"),
        study=stored.study if stored else settings.study or "-".join(folder.path.parts[-2:]),
        storage=None if settings.storage is None else str(storage._value()),  # unresolved: it may hold a password
        pruner=settings.pruner,
        minimize=search.minimize,
        trials_per_round=stored.trials_per_round if stored else -(-search.num_points // settings.rounds),
    )


class _Sweep:
    """The state of a sweep between its batches."""

    def __init__(
        self,
        search: Search,
        definition: Definition,
        folder: SweepFolder,
        storage: BaseStorage,
        config: DictConfig,
        loader: SweepConfigLoader,
        *,
        resumes: bool,
    ) -> None:
        self._config = config
        self._loader = loader
        self._search = search
        self._definition = definition
        self._folder = folder
        self._storage = storage
        self._study, is_new = join_or_create(storage, definition.study, search.minimize, search.signature(), resumes)
        self._plan = Plan(
            self._study,
            storage,
            search.space,
            num_points=search.num_points,
            seeds=search.settings.seeds,
            points=search.points,
            folder=folder.path,
            worst=float("inf") if search.minimize else 0.0,
        )
        if resumes:
            self._plan.recover(folder.result, folder.has_started)
        if is_new or resumes:
            self._plan.add_missing()
            declare_planned(self._study)
        before = read_trials(self._study, search.space)
        self._points_taken = {trial.point for trial in before}
        self._seed_of: dict[int, tuple[int, int]] = {}  # place and repeat of a trial of this process
        self._study.sampler = build_sampler(
            search.settings.kind,
            seed=search.settings.seed,
            names=[name_in_optuna(parameter) for parameter in search.space.parameters],
            num_done=len(before),
            trials_per_round=definition.trials_per_round,
            shrink=search.settings.shrink,
            keep=search.settings.keep,
            num_startup=NUM_STARTUP * search.settings.seeds,
        )
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
        self._next_write = time.monotonic()

    def run(self, launcher: Any) -> list[Trial]:
        self._launcher = launcher
        self._num_threads = getattr(launcher, "num_threads_in_a_job", None)
        num_parallel = _num_parallel(launcher)
        interrupted = False
        self._say(f"{_count(self._plan.num_trials, 'trial')} in {shown(self._folder.path)}")
        if self._definition.pruner == "median" and getattr(launcher, "jobs_end_together", False):
            self._say(
                "search.pruner=median compares a trial with those that have completed: of the first "
                f"{min(num_parallel, self._plan.num_trials)} or fewer, which this launcher trains side by side, it "
                "ends none; search.pruner=successive_halving does."
            )
        with self._progress:
            try:
                while batch := self._take(num_parallel):
                    self._launch(launcher, batch)
                    self._progress.print_line()
                    self._write_now_and_then()
            except KeyboardInterrupt:
                interrupted = True
        return self._finish(interrupted)

    def _say(self, line: str) -> None:
        """As it is: a folder may be called [red]."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _take(self, num_parallel: int) -> list[TakenTrial]:
        """The next batch: what does not depend on each other's results."""
        kind, seeds = self._search.settings.kind, self._search.settings.seeds
        limit = self._search.settings.batch_size or self._plan.num_trials
        per_round = self._definition.trials_per_round if kind == "coarse_to_fine" else None
        if kind == "tpe":
            per_round = NUM_STARTUP  # which are random
            if len(self._points_taken) >= NUM_STARTUP:
                limit = self._search.settings.batch_size or max(num_parallel, seeds)
                per_round = None
        batch = self._plan.take(
            limit, lambda first, point: per_round is None or first // per_round == point // per_round
        )
        self._points_taken.update(trial.place for trial in batch)
        self._seed_of |= {trial.number: (trial.place, trial.repeat) for trial in batch}
        return batch

    def _launch(self, launcher: Any, batch: Sequence[TakenTrial]) -> None:
        """Run a batch to its end. What a failing launcher leaves is launched again, without the job it fell over."""
        left = list(batch)
        while left:
            jobs = [self._job(trial) for trial in left]
            watch = _Watch(self, [trial.number for trial in left])
            try:
                with watch:
                    returns: Sequence[JobReturn | None] = launcher.launch(jobs, initial_job_idx=left[0].number)
            except KeyboardInterrupt:
                watch.collect()
                for number in filter(self.has_started, list(watch.open)):
                    self.tell(number, {"status": "interrupted"})
                raise
            except BaseException as error:  # a callback of Hydra's may call sys.exit()
                watch.collect()
                again = self._after_failure(error, [trial for trial in left if trial.number in watch.open])
                if len(again) == len(left):
                    raise UserError(f"The launcher cannot start a job: {one_line(error)}") from error
                left = again
            else:
                watch.collect()
                for trial, job_return in zip(left, returns, strict=True):
                    if trial.number in watch.open:
                        self.tell_return(trial.number, job_return)
                left = []
        self._progress.update(running=())

    def _job(self, trial: TakenTrial) -> list[str]:
        return [*self._search.overrides(trial.point, trial.repeat), f"{SUBDIR}={trial.number}"]

    def _after_failure(self, error: BaseException, unfinished: Sequence[TakenTrial]) -> list[TakenTrial]:
        """The trials to launch again; those that the launcher failed at are told so."""
        left = []
        for trial in unfinished:
            if self.has_started(trial.number):
                self.tell(trial.number, {"status": "failed", "error": f"the launcher failed: {reason(error)}"})
                continue
            try:
                self._loader.load_sweep_config(self._config, self._job(trial))
            except Exception as reason_of_job:
                self.tell(trial.number, {"status": "failed", "error": one_line(reason_of_job)})
            else:
                left.append(trial)
        return left

    def tell_return(self, number: int, job_return: JobReturn | None) -> None:
        """End a trial that left no summary, by what the launcher says of it."""
        if job_return is not None and job_return.status == JobStatus.COMPLETED:
            result = {"status": "completed", "objective": job_return.return_value}
        else:
            error = None if job_return is None else job_return._return_value  # the property prints and raises
            result = {
                "status": "failed",
                "error": "the launcher said nothing of it" if error is None else reason(error),
            }
        self.tell(number, result)

    def tell(self, number: int, result: dict[str, Any]) -> None:
        self._plan.tell(number, result)
        self.ended(number, result)

    def ended(self, number: int, result: dict[str, Any]) -> None:
        place, repeat = self._seed_of[number]
        self._progress.ended(number, result["status"], result.get("objective"), result.get("error", ""), place, repeat)

    def seen(self, running: Iterable[int]) -> None:
        """Called again and again while a batch runs."""
        self._progress.update(running, getattr(self._launcher, "activity", ""))
        self._write_now_and_then()

    def result(self, number: int) -> dict[str, Any] | None:
        return self._folder.result(number)

    def returned(self) -> Mapping[int, JobReturn]:
        """What the launcher says of jobs that have ended, by their place in the batch, if it does before the last."""
        return dict(getattr(self._launcher, "returns", {}))

    def has_started(self, number: int) -> bool:
        return self._folder.has_started(number)

    def release(self) -> None:
        """Called by a thread at its end."""
        release(self._storage)

    def _write_now_and_then(self) -> None:
        """At most a twentieth of the time, however many trials there are to write."""
        start = time.monotonic()
        if start > self._next_write:
            self._write()
            now = time.monotonic()
            self._next_write = now + max(_WRITE_EVERY_S, 20 * (now - start))

    def _write(self) -> Leaderboard:
        leaderboard = Leaderboard(
            read_trials(self._study, self._search.space),
            self._search.space,
            self._search.fixed,
            self._search.objective,
            self._search.minimize,
            self._search.settings.seeds,
            self._search.base_seed,
            self._num_threads,
        )
        leaderboard.write(self._folder)
        return leaderboard

    def _finish(self, interrupted: bool) -> list[Trial]:
        leaderboard = self._write()
        say = self._console.print
        with _going_on("the table"):
            table = leaderboard.table(self._console.width)
            if table is not None:
                say(table)
        counts = leaderboard.counts()
        if counts["failed"]:
            self._say(
                f"{counts['failed']} of {len(leaderboard.trials)} trials failed: see {shown(self._folder.leaderboard)}"
            )
        if interrupted:
            command = shlex.join(["python", "-m", "bnlab.train", "-m", f"search.resume={shown(self._folder.path)}"])
            say(f"Interrupted. Continue with:\n{command}", highlight=False, markup=False, soft_wrap=True)
        elif leaderboard.best is not None:
            command = leaderboard.command(leaderboard.best)
            say(f"Run the best again:\n{command}", highlight=False, markup=False, soft_wrap=True)
        with _going_on(self._folder.figure.name):
            leaderboard.write_figure(self._folder)
        if interrupted:
            raise SystemExit(EXIT_INTERRUPTED)
        if counts["failed"]:
            raise SystemExit(EXIT_FAILED)
        return list(leaderboard.trials)


@contextmanager
def _going_on(what: str) -> Iterator[None]:
    """Log in a line that `what` cannot be shown, and go on: the results are written, and the ending says the rest."""
    try:
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        logging.getLogger(__name__).warning("%s cannot be shown: %s", what, reason)


class _Watch:
    """While a launcher works: tells each trial as soon as its folder says how it ended, whatever process wrote that."""

    def __init__(self, sweep: _Sweep, numbers: Sequence[int]) -> None:
        self._sweep = sweep
        self._numbers = numbers
        self.open = dict.fromkeys(numbers)  # a set that keeps the order
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "_Watch":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_POLL_S):
            try:
                self.collect()
                self._sweep.seen([number for number in self.open if self._sweep.has_started(number)])
            except Exception:  # a busy database: whatever is missed is told at the end of the batch
                logging.getLogger(__name__).debug("telling while the batch runs failed", exc_info=True)
        self._sweep.release()

    def collect(self) -> None:
        """Tell the trials that have ended since the last time."""
        returned = self._sweep.returned()
        for place, number in enumerate(self._numbers):
            if number not in self.open:
                continue
            result = self._sweep.result(number)
            if result is not None:
                self._sweep.tell(number, result)
            elif place in returned:
                self._sweep.tell_return(number, returned[place])
            else:
                continue
            del self.open[number]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _num_parallel(launcher: Any) -> int:
    """How many jobs it runs at once, as far as it says."""
    number = getattr(launcher, "n_jobs", 1)
    if number == -1:
        from loky import cpu_count

        return cpu_count()
    return max(number, 1)
