"""The code inside a worker process of the joblib launcher: its preparation, then one job after another."""

import os
import signal
import threading
import time
from pathlib import Path

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from bnlab.errors import error_text
from bnlab.internals.hydra_internals import error_of
from bnlab.launchers.one_job import run_here
from bnlab.process.import_path import Environment, restore_environment
from bnlab.process.shared_process import leave_removed_folder
from bnlab.process.signals import ASK_TO_END, answering_parent, leave_to_parent

__all__ = ["JobFailedError", "prepare", "run"]


class JobFailedError(RuntimeError):
    """Replaces an exception of a job that cannot be pickled."""


_context: tuple[HydraContext, DictConfig, TaskFunction] | None = None
_parent = 0  # the process that started this one
_watch: threading.Thread | None = None


def prepare(context: str | bytes, environment: Environment, parent: int) -> None:
    """Give a new process the state of its parent, and end it with that parent."""
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
    """Start a thread that ends this process when its parent is gone.

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


@answering_parent()
def run(number: int, overrides: list[str]) -> JobReturn:
    assert _context is not None
    _end_with_parent()
    hydra_context, config, task_function = _context
    leave_removed_folder()
    job_return = run_here(hydra_context, config, task_function, number, overrides)
    if job_return.status == JobStatus.FAILED:
        error = error_of(job_return)
        if error is not None and not _can_travel(error):
            job_return.return_value = JobFailedError(error_text(error))
    return job_return


def _can_travel(error: BaseException) -> bool:
    from cloudpickle import dumps, loads

    try:
        loads(dumps(error))
    except Exception:
        return False
    return True
