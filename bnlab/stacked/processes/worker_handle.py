"""A worker process as its pool sees it."""

from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from bnlab.runs.folder import RunFolder
from bnlab.stacked.job import Job
from bnlab.stacked.processes.chunks import Chunk

__all__ = ["WorkerHandle"]


@dataclass
class WorkerHandle:
    connection: Connection
    pid: int
    data: str  # the key of those it has in memory
    chunk: Chunk | None = None
    has_begun: bool = False  # with its chunk: one that was killed while it was idle may be given work all the same
    ended: set[int] = field(default_factory=set)
    epoch: int = 0
    num_networks: int = 0

    def unfinished(self) -> list[Job]:
        return [job for job in self.chunk.jobs if job.number not in self.ended] if self.chunk else []

    def clear(self) -> None:
        """Make the folders of unfinished jobs fit to begin again in: one that holds half a run would be refused.

        What is there is theirs: a job whose folder held anything was refused when it was composed.
        """
        for job in self.unfinished():
            for file in RunFolder(job.folder).results:
                file.unlink(missing_ok=True)
