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
    data: str  # the key of the data in its memory
    chunk: Chunk | None = None
    has_begun: bool = False  # whether it has begun its chunk; a worker killed while idle may still be sent one
    ended: set[int] = field(default_factory=set)
    epoch: int = 0
    num_networks: int = 0

    def unfinished(self) -> list[Job]:
        return [job for job in self.chunk.jobs if job.number not in self.ended] if self.chunk else []

    def clear(self) -> None:
        """Clear the folders of unfinished jobs for another try, because a folder with half a run would be refused.

        All files there belong to the jobs: a job whose folder was not empty was refused when it was composed.
        """
        for job in self.unfinished():
            for file in RunFolder(job.folder).results:
                file.unlink(missing_ok=True)
