"""`hydra/launcher=joblib`: run the jobs of a sweep in processes of loky, joblib's backend; each may die alone."""

import queue
import time
from collections.abc import Sequence
from pathlib import Path

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from bnlab.internals.loky_internals import amend, in_memory, start_trackers
from bnlab.launchers.n_jobs import N_JOBS, num_processes
from bnlab.launchers.worker import TASKS_PER_WORKER, Worker
from bnlab.process.import_path import safe_for_children
from bnlab.process.process_limit import require_room
from bnlab.search.sweeps.launcher import SweepLauncher

__all__ = ["JoblibLauncher"]

_OTHER_TASKS = 8  # the trackers of loky, the watch of the sweep, a compiler
_STOP_WITHIN_S = 20.0  # how long trainings may take to end after a request


class JoblibLauncher(Launcher, SweepLauncher):
    """Runs jobs in `n_jobs` worker processes of loky, each of which computes with one thread.

    `joblib.Parallel` ends a whole batch when one of its processes is killed. Here each worker is a separate pool: the
    job of a killed process is returned as failed, and the next job gets a new process.

    Args:
        n_jobs: the number of worker processes; -1 means one per core, -2 one less, and so on.
    """

    num_threads_in_a_job = 1

    def __init__(self, n_jobs: int = -1) -> None:
        self._asked_for = n_jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from loky import cpu_count

        self.num_parallel = num_processes(self._asked_for, cpu_count())
        require_room(f"{N_JOBS}={self.num_parallel}", TASKS_PER_WORKER * self.num_parallel + _OTHER_TASKS, N_JOBS)
        self._hydra_context = hydra_context
        self._task_function = task_function
        self._config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs as workers become free; the returns are in the order of the jobs."""
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
            workers = [Worker(file, environment, folder, jobs, returns, initial_job_idx) for _ in range(num_workers)]
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
                self.returns = {}  # the next batch has none yet
        for worker in workers:
            if worker.error is not None:
                raise worker.error
        return [returns[index] for index in range(len(job_overrides))]


def _ask_to_end(workers: Sequence[Worker]) -> None:
    """Let every training save its state and end; a second Ctrl-C ends them at once."""
    for worker in workers:
        worker.ask_to_end()
    deadline = time.monotonic() + _STOP_WITHIN_S
    for worker in workers:
        while worker.is_alive() and time.monotonic() < deadline:
            worker.join(0.1)
