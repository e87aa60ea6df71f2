"""Real processes for tests, forked so that none imports anything anew."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

_FORK: Any = multiprocessing.get_context("fork")


def started(function: Callable[..., Any], *arguments: Any) -> BaseProcess:
    process = _FORK.Process(target=function, args=arguments)
    process.start()
    return process


def killed(process: BaseProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def wait_until(condition: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.0005)


def at_once(function: Callable[[int], Any], num_processes: int) -> list[Any]:
    """What it returns, or the error that it raises, in processes that all begin at the same moment."""
    barrier, results = _FORK.Barrier(num_processes), _FORK.SimpleQueue()

    def run(number: int) -> None:
        barrier.wait()
        try:
            result = function(number)
        except Exception as error:
            result = error
        results.put((number, result))

    processes = [started(run, number) for number in range(num_processes)]
    found = dict(results.get() for _ in processes)
    for process in processes:
        process.join()
    return [found[number] for number in range(num_processes)]
