"""Cut the jobs of a batch, as they are composed, into chunks, each of which a worker trains at a time."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnlab.errors import UserError
from bnlab.runs.folder import RunFolder
from bnlab.stacked.grouping import data_key, group_key, why_alone
from bnlab.stacked.job import Job
from bnlab.stacked.processes.refusal import Refusal

__all__ = ["Chunk", "Chunks"]

COMPOSE_FOR_S = 0.01

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chunk:
    """The jobs that a worker trains at a time.

    Attributes:
        reason: why Lightning trains its only job; None for a stack.
        is_retry: whether it was tried before.
    """

    jobs: tuple[Job, ...]
    reason: str | None = None
    is_retry: bool = False

    @property
    def data(self) -> str:
        return data_key(self.jobs[0].settings)


class Chunks:
    """The chunks that still have to be trained, made from jobs while these are composed.

    Args:
        jobs: yields the jobs one by one, because workers can train while others are composed.
        size: returns how many networks with this config fit into a stack; raises UserError if not even one does.
    Attributes:
        waiting: the chunks that no worker has taken.
        refused: the jobs that cannot be trained.
    """

    def __init__(self, jobs: Iterator[Job], size: Callable[[Mapping[str, Any]], int]) -> None:
        self._jobs = jobs
        self._size = size
        self._groups: dict[str, tuple[int, list[Job]]] = {}
        self.waiting: list[Chunk] = []
        self.refused: list[Refusal] = []
        self._folders: set[Path] = set()
        self.is_composing = True

    @property
    def is_empty(self) -> bool:
        return not self.waiting and not self.refused and not self.is_composing

    def compose(self, num_chunks: int) -> None:
        """Compose jobs for a moment, or until `num_chunks` are waiting."""
        deadline = time.monotonic() + COMPOSE_FOR_S
        while self.is_composing and len(self.waiting) < num_chunks and time.monotonic() < deadline:
            job = next(self._jobs, None)
            if job is None:
                self.is_composing = False
                self.waiting += [Chunk(tuple(group)) for _, group in self._groups.values() if group]
            else:
                self._add(job)

    def _add(self, job: Job) -> None:
        if job.folder in self._folders:
            error = f"{str(job.folder)!r} is the folder of another job, too: give each a folder of its own."
            self.refused.append(Refusal(job, error, has_folder=False))
            return
        self._folders.add(job.folder)
        try:
            RunFolder(job.folder).require_free()
        except UserError as error:
            self.refused.append(Refusal(job, str(error), has_folder=False))
            return
        self._group(job)

    def _group(self, job: Job) -> None:
        reason = why_alone(job.settings)
        if reason is not None:
            self.add_alone([job], reason)
            return
        key = group_key(job.settings)
        if key not in self._groups:
            try:
                self._groups[key] = self._size(job.settings), []
            except UserError as error:
                self.refused.append(Refusal(job, str(error)))
                return
        size, group = self._groups[key]
        group.append(job)
        if len(group) == size:
            self.waiting.append(Chunk(tuple(group)))
            group.clear()

    def add_alone(self, jobs: Sequence[Job], reason: str) -> None:
        """Enqueue jobs that Lightning trains one by one."""
        for job in jobs:
            log.info("job %d trains alone, not in a stack: %s", job.number, reason)
            self.waiting.append(Chunk((job,), reason))

    def retry(self, jobs: Sequence[Job], chunk: Chunk) -> None:
        """Enqueue jobs again, one by one."""
        self.waiting += [Chunk((job,), chunk.reason, is_retry=True) for job in jobs]

    def give_back(self, jobs: Sequence[Job], chunk: Chunk) -> None:
        """Enqueue jobs again in halves of `chunk`, since their memory may have got a worker killed."""
        half = max(1, len(chunk.jobs) // 2)
        self.waiting += [Chunk(tuple(jobs[i : i + half]), chunk.reason) for i in range(0, len(jobs), half)]

    def halve(self) -> None:
        """Split each waiting chunk in two."""
        waiting, self.waiting = self.waiting, []
        for chunk in waiting:
            self.give_back(chunk.jobs, chunk)

    def take(self, data: str) -> Chunk | None:
        """Take the first chunk that trains on `data`."""
        for index, chunk in enumerate(self.waiting):
            if chunk.data == data:
                return self.waiting.pop(index)
        return None
