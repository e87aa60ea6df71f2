"""Worker processes that train chunks of networks, kept alive from one batch of jobs to the next."""

import logging
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

from bnlab.process.shared_process import leave_removed_folder
from bnlab.runs.summary import Summary
from bnlab.stacked.processes.chunks import Chunks
from bnlab.stacked.processes.deaths import MOST_DEATHS, NO_PROCESS, Deaths, LostWorkersError
from bnlab.stacked.processes.fork_server import CANNOT_FORK, ForkServer, NoProcessError, fork_server
from bnlab.stacked.processes.refusal import Refusal
from bnlab.stacked.processes.worker_handle import WorkerHandle

__all__ = ["Pool", "Report"]

log = logging.getLogger(__name__)

_KILLED = (-signal.SIGKILL, -signal.SIGTERM)  # exit codes after a kill from outside, such as by the kernel
FORK_AGAIN_AFTER_S = 0.5
STOP_WITHIN_S = 20.0
POLL_S = 0.2


Ended = Callable[[int, Summary], None]


@dataclass(frozen=True)
class Report:
    """Progress: the jobs that have ended, the networks in training, and the epoch of each worker."""

    num_ended: int
    num_networks: int
    epochs: tuple[int, ...]


class Pool:
    """`num_workers` processes of one thread each, started with the first work and ended by `close`.

    All are forked from one process that has torch and the data in memory (`bnlab.stacked.processes.fork_server`).
    """

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        self._workers: list[WorkerHandle] = []
        self._num_starting = 0
        self._deaths = Deaths()
        self._no_fork_before = 0.0  # on the clock of time.monotonic()
        self._server: ForkServer | None = None

    def start(self) -> None:
        """Start the workers in the background; the caller can do other work meanwhile."""
        if self._server is not None and self._server.exit_code is None:
            return
        self.close()
        self._start_server()

    def _start_server(self) -> None:
        self._num_starting = 0
        for _ in range(MOST_DEATHS):
            try:
                self._server = fork_server()
                return
            except BlockingIOError:
                time.sleep(FORK_AGAIN_AFTER_S)
        raise LostWorkersError(NO_PROCESS)

    def close(self, *, wait: bool = True) -> None:
        """End all processes; the next `run` starts new ones. A caller about to exit need not `wait` for their end."""
        for worker in self._workers:
            worker.connection.close()
        self._workers = []
        if self._server is not None:
            self._server.close(wait=wait)
        self._server = None

    def run(self, chunks: Chunks, ended: Ended, report: Callable[[Report], None]) -> None:
        """Train all `chunks`; call `ended` with the number and summary of each job, and `report` periodically.

        Raises:
            KeyboardInterrupt: after Ctrl-C, once the current trainings have written what can be read.
        """
        self.start()
        self._num_ended, self._ended = 0, ended
        self._deaths.reset()
        ahead = 2 * self.num_workers  # composed while workers start: a second chunk is ready for each
        try:
            while not chunks.is_empty or any(worker.chunk for worker in self._workers):
                chunks.compose(ahead)
                while chunks.refused:
                    self._fail(chunks.refused.pop())
                self._hand_out(chunks)
                sources: list[Any] = [worker.connection for worker in self._workers]
                if self._num_starting:
                    sources.append(self._server)
                has_time = chunks.is_composing and len(chunks.waiting) < ahead
                for ready in wait(sources, 0 if has_time else POLL_S):
                    self._take_in(ready, chunks)
                busy = [worker for worker in self._workers if worker.chunk is not None]
                num_networks = sum(worker.num_networks for worker in busy)
                report(Report(self._num_ended, num_networks, tuple(worker.epoch for worker in busy)))
                self._check_server(chunks)
        except KeyboardInterrupt:
            self._stop()
            raise
        except BaseException:
            self._kill()
            raise

    def _hand_out(self, chunks: Chunks) -> None:
        for worker in [worker for worker in self._workers if worker.chunk is None]:
            chunk = chunks.take(worker.data)
            if chunk is not None:
                worker.chunk, worker.has_begun, worker.ended = chunk, False, set()
                worker.epoch, worker.num_networks = 0, len(chunk.jobs)
                with suppress(BrokenPipeError, ConnectionResetError):  # the next read tells how it ended
                    worker.connection.send(chunk)
            elif len(chunks.waiting) > self._num_starting:
                self._end(worker)  # all waiting chunks need other data, which take a new fork
        assert self._server is not None
        if time.monotonic() < self._no_fork_before:
            return
        room = self.num_workers - len(self._workers) - self._num_starting
        for chunk in chunks.waiting[self._num_starting :][:room]:
            self._server.order(chunk.data, chunk.jobs[0].settings)
            self._num_starting += 1

    def _take_in(self, ready: Any, chunks: Chunks) -> None:
        if self._server is not None and ready is self._server:
            try:
                taken = self._server.take()
            except NoProcessError:
                self._num_starting -= 1
                self._wait_to_fork()
                return
            if taken is not None:  # otherwise the fork server has ended: `_check_server` handles it
                self._num_starting -= 1
                self._workers.append(WorkerHandle(*taken))
            return
        worker = next(worker for worker in self._workers if worker.connection is ready)
        try:
            kind, *values = worker.connection.recv()
        except Exception:  # the end of the stream, or a message cut short by a kill
            self._lost(worker, chunks)
            return
        if kind == "begun":
            worker.has_begun = True
        elif kind == "progress":
            worker.epoch, worker.num_networks = values
        elif kind == "said":
            log.warning("%s", *values)
        elif kind == "ended":
            worker.ended.add(values[0])
            self._end_job(*values)
        elif kind == "alone":
            worker.clear()
            chunks.add_alone(worker.unfinished(), values[0])
        elif kind == "broke":
            self._retry(worker, chunks, *values)
        elif kind == "died":
            self._lost(worker, chunks, *values)
        elif kind == "done":
            worker.chunk = None

    def _end_job(self, number: int, summary: Summary) -> None:
        self._num_ended += 1
        self._deaths.reset()
        self._ended(number, summary)

    def _lost(self, worker: WorkerHandle, chunks: Chunks, code: int | None = None) -> None:
        """Handle the end of a worker's process with exit `code`, None if unknown."""
        self._end(worker)
        if worker.chunk is None:
            return
        if not worker.has_begun:
            self._deaths.count(code, "worker processes")
            chunks.waiting.insert(0, worker.chunk)
            return
        if code not in _KILLED:
            self._retry(worker, chunks, "its worker process was killed or crashed")
            return
        self._deaths.count(code, "worker processes")
        jobs = worker.unfinished()
        worker.clear()
        if len(worker.chunk.jobs) > 1:
            chunks.give_back(jobs, worker.chunk)
            return
        for job in jobs:
            name = signal.Signals(-code).name
            self._fail(Refusal(job, f"its worker process was killed by {name}", is_outside=True), is_lost=True)

    def _wait_to_fork(self) -> None:
        """After a failed fork, let the existing workers go on, and request another one only after a while."""
        self._no_fork_before = time.monotonic() + FORK_AGAIN_AFTER_S
        if not self._workers:
            self._deaths.count_unforked()

    def _retry(self, worker: WorkerHandle, chunks: Chunks, error: str, is_outside: bool = False) -> None:
        """Retry once, network by network, because one network may have ended the others."""
        assert worker.chunk is not None
        jobs = worker.unfinished()
        worker.clear()
        if not worker.chunk.is_retry:
            chunks.retry(jobs, worker.chunk)
            return
        for job in jobs:
            self._fail(Refusal(job, error, is_outside=is_outside))

    def _fail(self, refusal: Refusal, is_lost: bool = False) -> None:
        if is_lost:  # this does not interrupt a series of deaths
            self._num_ended += 1
            self._ended(refusal.job.number, refusal.write())
        else:
            self._end_job(refusal.job.number, refusal.write())

    def _end(self, worker: WorkerHandle) -> None:
        self._workers.remove(worker)
        worker.connection.close()

    def _check_server(self, chunks: Chunks) -> None:
        """Replace a fork server that was killed; the workers that it has forked continue.

        Raises:
            RuntimeError: it ended by itself, as the next one would.
        """
        assert self._server is not None
        code = self._server.exit_code
        if code is None or not self._num_starting:
            return
        if code == CANNOT_FORK:
            self._wait_to_fork()
        elif code >= 0 and not leave_removed_folder():  # torch cannot be imported from a removed folder
            raise RuntimeError(f"the process that workers are forked from ended with exit code {code}")
        elif code < 0:
            self._deaths.count(code, "processes that workers are forked from")
        self._server.close()
        self._start_server()
        if code == -signal.SIGKILL:
            chunks.halve()

    def _stop(self) -> None:
        """Let every worker bring its trainings to a readable end, then end it; a second Ctrl-C ends it at once."""
        deadline = time.monotonic() + STOP_WITHIN_S
        try:
            for worker in self._workers:
                with suppress(OSError):
                    worker.connection.send(None)
                    if worker.chunk is not None and worker.chunk.reason is not None:
                        os.kill(worker.pid, signal.SIGINT)  # a training by Lightning handles it
            while busy := [worker for worker in self._workers if worker.chunk is not None]:
                if time.monotonic() > deadline:
                    return
                for ready in wait([worker.connection for worker in busy], POLL_S):
                    worker = next(worker for worker in busy if worker.connection is ready)
                    try:
                        kind, *values = worker.connection.recv()
                    except Exception:  # the end of the stream, or a message cut short by a kill
                        worker.chunk = None
                        continue
                    if kind == "ended":
                        self._end_job(*values)
                    elif kind in ("done", "died"):
                        worker.chunk = None
        finally:
            self._kill()

    def _kill(self) -> None:
        for worker in self._workers:
            with suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
        self.close()
