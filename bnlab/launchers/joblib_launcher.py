"""`hydra/launcher=joblib`: the jobs of a sweep in processes of loky, joblib's backend, of which each may die alone."""

import os
import queue
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import wait
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from bnlab.errors import reason
from bnlab.internals.hydra_internals import error_of
from bnlab.internals.loky_internals import amend, in_memory, processes_of, start_trackers
from bnlab.launchers.n_jobs import num_processes
from bnlab.process.import_path import Environment, restore_environment, safe_for_children
from bnlab.process.outside import is_outside, wait_for_room
from bnlab.process.process_limit import is_process_limit, require_room
from bnlab.process.shared_process import leave_removed_folder
from bnlab.process.signals import ASK_TO_END, answers_the_asking, leave_to_parent
from bnlab.search.sweeps.launcher import SweepLauncher

__all__ = ["JobFailedError", "JoblibLauncher", "WorkerDiedError"]

# One thread each, or n processes of n threads would fight for n cores. Set before torch or numpy is loaded.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


_FROM_OUTSIDE = ("SIGKILL(-9)", "SIGTERM(-15)", "exit code -9", "exit code -15")
POLL_S = 0.5
PATIENCE_S = 60.0  # with a full disk
PATIENCE_FOR_A_PROCESS_S = 5.0  # where no more can be started
_N_JOBS = "hydra.launcher.n_jobs"
_TASKS_OF_A_WORKER = 5  # its process and a thread in it; here, its own thread and two of loky's
_OTHER_TASKS = 8  # the trackers of loky, the watch of the sweep, a compiler
STOP_WITHIN_S = 20.0  # trainings that are asked to end
GRACE_S = 1.0  # in which loky sees itself that a process is gone, and says more of it


class WorkerDiedError(RuntimeError):
    """A worker process ended in the middle of its job.

    Attributes:
        is_outside: whether another process ended it, the kernel for want of memory, say; a job that ends its own is
            not told apart where it sends itself the same signals.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.is_outside = any(f"({code})" in message for code in _FROM_OUTSIDE)


class JobFailedError(RuntimeError):
    """Stands for what a job raised, where that cannot travel from its process."""


class JoblibLauncher(Launcher, SweepLauncher):
    """Runs jobs in `n_jobs` worker processes of loky, with one thread of arithmetic each.

    Where `joblib.Parallel` ends a whole batch when one of its processes is killed, each worker here is a pool of its
    own: its job is returned as failed, and the next one gets a new process.

    Args:
        n_jobs: worker processes; -1 for one a core, -2 for one less, and so on.
    """

    num_threads_in_a_job = 1

    def __init__(self, n_jobs: int = -1) -> None:
        self._asked_for = n_jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from loky import cpu_count

        self.num_parallel = num_processes(self._asked_for, cpu_count())
        require_room(f"{_N_JOBS}={self.num_parallel}", _TASKS_OF_A_WORKER * self.num_parallel + _OTHER_TASKS, _N_JOBS)
        self._hydra_context = hydra_context
        self._task_function = task_function
        self._config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs, in the order in which workers become free; their returns are in the order of the jobs."""
        from cloudpickle import dumps

        setup_globals()
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        folder = Path(self._config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        context = dumps((Singleton.get_state(), self._hydra_context, self._config, self._task_function))
        jobs: queue.SimpleQueue[tuple[int, Sequence[str]]] = queue.SimpleQueue()
        for job in enumerate(job_overrides):
            jobs.put(job)
        returns: dict[int, JobReturn] = {}
        self.returns = returns
        num_workers = min(self.num_parallel, len(job_overrides))
        with safe_for_children() as environment, in_memory(context) as file:
            amend()
            start_trackers()
            workers = [_Worker(file, environment, folder, jobs, returns, initial_job_idx) for _ in range(num_workers)]
            try:
                for worker in workers:
                    worker.start()
                for worker in workers:
                    while worker.is_alive():
                        worker.join(0.1)  # a plain join would not let Ctrl-C through
            except BaseException as error:
                try:
                    if isinstance(error, KeyboardInterrupt):
                        _ask_to_end(workers)
                finally:
                    for worker in workers:
                        worker.stop()
                raise
            finally:
                self.returns = {}  # those of the next batch are not there yet
        for worker in workers:
            if worker.error is not None:
                raise worker.error
        return [returns[index] for index in range(len(job_overrides))]


def _ask_to_end(workers: Sequence["_Worker"]) -> None:
    """Let every training come to an end that can be read; a second Ctrl-C ends them at once."""
    for worker in workers:
        worker.ask_to_end()
    deadline = time.monotonic() + STOP_WITHIN_S
    for worker in workers:
        while worker.is_alive() and time.monotonic() < deadline:
            worker.join(0.1)


class _Worker(threading.Thread):
    """Feeds one process with jobs, and replaces it when it dies."""

    def __init__(
        self,
        context: str | bytes,
        environment: Environment,
        folder: Path,
        jobs: "queue.SimpleQueue[tuple[int, Sequence[str]]]",
        returns: dict[int, JobReturn],
        initial_job_idx: int,
    ) -> None:
        super().__init__(daemon=True)
        self._context = context
        self._environment = environment
        self._folder = folder
        self._jobs = jobs
        self._returns = returns
        self._initial_job_idx = initial_job_idx
        self._process: Any = None
        self._stopped = False
        self._gone_since: float | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._run()
        except BaseException as error:  # for the launcher to raise in its own thread
            self.error = error
        finally:
            self._end_process()

    def _run(self) -> None:
        from loky.process_executor import BrokenProcessPool

        while not self._stopped:
            try:
                index, overrides = self._jobs.get_nowait()
            except queue.Empty:
                return
            try:
                future = self._submit(self._initial_job_idx + index, list(overrides))
                while not wait([future], POLL_S).done:
                    self._look_after_process()
                result = future.result()
                if result.status == JobStatus.FAILED and is_outside(error_of(result)):
                    self._wait_for_room()  # before the next meets the same end
                self._returns[index] = result
            except (BrokenProcessPool, WorkerDiedError) as error:
                if self._stopped:
                    return
                if not isinstance(error, WorkerDiedError):
                    error = WorkerDiedError(f"its worker process was killed or crashed ({_exit_codes(error)})")
                self._returns[index] = _failed(overrides, error)
                self._end_process(kill=True)
            except Exception as error:  # what a job raises is in its return: this is its way there
                if is_outside(error):
                    self._wait_for_room()
                self._returns[index] = _failed(overrides, error)

    def _submit(self, number: int, overrides: list[str]) -> Any:
        """
        Raises:
            NoRoomError: it takes a new process, which cannot be started.
        """
        from loky.process_executor import ProcessPoolExecutor

        if self._process is not None:
            return self._process.submit(_run_job, number, overrides)
        deadline = time.monotonic() + PATIENCE_FOR_A_PROCESS_S
        while True:
            try:
                with _starting:
                    require_room("a process of the sweep", _TASKS_OF_A_WORKER, _N_JOBS)
                    self._process = ProcessPoolExecutor(
                        max_workers=1,
                        initializer=_prepare,
                        initargs=(self._context, self._environment, os.getpid()),
                        env=ONE_THREAD,
                    )
                    return self._process.submit(_run_job, number, overrides)
            except Exception as error:
                self._end_process(kill=True)
                if not is_process_limit(error) or self._stopped or time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)

    def _wait_for_room(self) -> None:
        wait_for_room(self._folder, PATIENCE_S, lambda: self._stopped)

    def _look_after_process(self) -> None:
        """Find out that it is gone where loky does not: what it forked still holds the pipe that loky listens at."""
        now = time.monotonic()
        for worker in list(processes_of(self._process).values()):
            if worker.exitcode is None:
                self._gone_since = None
            elif self._gone_since is None:
                self._gone_since = now
            elif now > self._gone_since + GRACE_S:
                self._gone_since = None
                raise WorkerDiedError(f"its worker process was killed or crashed (exit code {worker.exitcode})")

    def ask_to_end(self) -> None:
        self._stopped = True
        for pid in list(processes_of(self._process)):
            with suppress(ProcessLookupError):
                os.kill(pid, ASK_TO_END)

    def stop(self) -> None:
        self._stopped = True
        self._end_process(kill=True)

    def _end_process(self, kill: bool = False) -> None:
        process, self._process = self._process, None
        if process is not None:
            with suppress(RuntimeError, OSError) if kill else nullcontext():  # of threads that could not be started
                process.shutdown(wait=not kill, kill_workers=kill)


def _exit_codes(error: BaseException) -> str:
    _, found, codes = str(error).partition("The exit codes of the workers are {")
    return codes.partition("}")[0] if found else type(error).__name__


_context: tuple[HydraContext, DictConfig, TaskFunction] | None = None
_parent = 0  # the process that started this one
_watch: threading.Thread | None = None
_starting = threading.Lock()  # one worker at a time: what there is room for, another would take


def _prepare(context: str | bytes, environment: Environment, parent: int) -> None:
    """Bring a new process to the state of the one that launched it, and end it when that one is gone."""
    from cloudpickle import loads

    global _context, _parent
    signal.signal(ASK_TO_END, signal.SIG_IGN)
    restore_environment(environment)
    state, *rest = loads(Path(context).read_bytes() if isinstance(context, str) else context)
    leave_to_parent()
    setup_globals()
    Singleton.set_state(state)
    hydra_context, config, task_function = rest
    _context = hydra_context, config, task_function
    _parent = parent


def _end_with_parent() -> None:
    """
    Raises:
        RuntimeError: no more threads can be started.
    """
    global _watch

    def watch() -> None:
        while os.getppid() == _parent:
            time.sleep(1)
        os._exit(1)

    if _watch is None:
        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        _watch = thread


def _run_job(number: int, overrides: list[str]) -> JobReturn:
    with answers_the_asking():
        return _answer(number, overrides)


def _answer(number: int, overrides: list[str]) -> JobReturn:
    assert _context is not None
    _end_with_parent()
    hydra_context, config, task_function = _context
    leave_removed_folder()
    job_config = hydra_context.config_loader.load_sweep_config(config, overrides)
    with open_dict(job_config):
        job_config.hydra.job.id = str(number)
        job_config.hydra.job.num = number
    job_return = run_job(
        hydra_context=hydra_context,
        task_function=task_function,
        config=job_config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    if job_return.status == JobStatus.FAILED:
        error = error_of(job_return)
        if error is not None and not _can_travel(error):
            job_return.return_value = JobFailedError(reason(error))
    return job_return


def _failed(overrides: Sequence[str], error: Exception) -> JobReturn:
    job_return = JobReturn(overrides=overrides, status=JobStatus.FAILED)
    job_return.return_value = error
    return job_return


def _can_travel(error: BaseException) -> bool:
    from cloudpickle import dumps, loads

    try:
        loads(dumps(error))
    except Exception:
        return False
    return True
