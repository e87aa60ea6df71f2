"""A worker of the joblib launcher: a thread that feeds jobs to one process and replaces it when it dies."""

import os
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import wait
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

from bnlab.internals.hydra_internals import error_of
from bnlab.internals.loky_internals import processes_of
from bnlab.launchers import worker_process
from bnlab.launchers.n_jobs import N_JOBS
from bnlab.process.import_path import Environment
from bnlab.process.outside import is_outside, wait_for_room
from bnlab.process.process_limit import is_process_limit, require_room
from bnlab.process.signals import ASK_TO_END

__all__ = ["TASKS_PER_WORKER", "Worker", "WorkerDiedError"]

TASKS_PER_WORKER = 5  # its process and a thread in it, and in this process its own thread and two of loky's

# Otherwise n processes of n threads would compete for n cores. These must be set before torch or numpy is loaded.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_FROM_OUTSIDE = ("SIGKILL(-9)", "SIGTERM(-15)", "exit code -9", "exit code -15")
_POLL_S = 0.5
PATIENCE_S = 60.0  # how long to wait while the disk is full
_PATIENCE_FOR_A_PROCESS_S = 5.0  # how long to try to start a process
_GRACE_S = 1.0  # within this time loky usually notices the end itself and knows the exit code
_starting = threading.Lock()  # one worker at a time, so that none takes the room that another has just checked


class WorkerDiedError(RuntimeError):
    """A worker process ended before its job did.

    Attributes:
        is_outside: whether another process ended it, such as the kernel when memory runs out. A job that sends itself
            the same signal cannot be told apart.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.is_outside = any(f"({code})" in message for code in _FROM_OUTSIDE)


class Worker(threading.Thread):
    """Feeds jobs to one process and replaces it when it dies."""

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
        except BaseException as error:  # the launcher raises it in its own thread
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
                while not wait([future], _POLL_S).done:
                    self._check_process()
                result = future.result()
                if result.status == JobStatus.FAILED and is_outside(error_of(result)):
                    self._wait_for_room()  # so that the next job does not fail for the same reason
                self._returns[index] = result
            except (BrokenProcessPool, WorkerDiedError) as error:
                if self._stopped:
                    return
                if not isinstance(error, WorkerDiedError):
                    error = WorkerDiedError(f"its worker process was killed or crashed ({_exit_codes(error)})")
                self._returns[index] = _failed(overrides, error)
                self._end_process(kill=True)
            except Exception as error:  # raised on the way to the job or back; the job's own error is in its return
                if is_outside(error):
                    self._wait_for_room()
                self._returns[index] = _failed(overrides, error)

    def _submit(self, number: int, overrides: list[str]) -> Any:
        """Submit the job to the process, or to a new one.

        Raises:
            NoRoomError: the job needs a new process, which cannot be started.
        """
        from loky.process_executor import ProcessPoolExecutor

        if self._process is not None:
            return self._process.submit(worker_process.run, number, overrides)
        deadline = time.monotonic() + _PATIENCE_FOR_A_PROCESS_S
        while True:
            try:
                with _starting:
                    require_room("a process of the sweep", TASKS_PER_WORKER, N_JOBS)
                    self._process = ProcessPoolExecutor(
                        max_workers=1,
                        initializer=worker_process.prepare,
                        initargs=(self._context, self._environment, os.getpid()),
                        env=_ONE_THREAD,
                    )
                    return self._process.submit(worker_process.run, number, overrides)
            except Exception as error:
                self._end_process(kill=True)
                if not is_process_limit(error) or self._stopped or time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_S)

    def _wait_for_room(self) -> None:
        wait_for_room(self._folder, PATIENCE_S, lambda: self._stopped)

    def _check_process(self) -> None:
        """Notice that the process has ended when loky does not, because a child of it keeps loky's pipe open."""
        now = time.monotonic()
        for worker in list(processes_of(self._process).values()):
            if worker.exitcode is None:
                self._gone_since = None
            elif self._gone_since is None:
                self._gone_since = now
            elif now > self._gone_since + _GRACE_S:
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
            with (
                suppress(RuntimeError, OSError) if kill else nullcontext()
            ):  # raised by loky when threads could not be started
                process.shutdown(wait=not kill, kill_workers=kill)


def _exit_codes(error: BaseException) -> str:
    _, found, codes = str(error).partition("The exit codes of the workers are {")
    return codes.partition("}")[0] if found else type(error).__name__


def _failed(overrides: Sequence[str], error: Exception) -> JobReturn:
    job_return = JobReturn(overrides=overrides, status=JobStatus.FAILED)
    job_return.return_value = error
    return job_return
