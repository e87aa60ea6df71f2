"""Write the summary of a job that cannot be trained."""

from contextlib import suppress
from dataclasses import dataclass

from bnlab.errors import UserError
from bnlab.runs.folder import RunFolder
from bnlab.runs.summary import Summary, beginning
from bnlab.stacked.job import Job

__all__ = ["Refusal"]


@dataclass(frozen=True)
class Refusal:
    """A job that cannot be trained, and the reason.

    Attributes:
        has_folder: false if its folder belongs to another run.
        is_outside: whether the job did not cause the error itself (`bnlab.process.outside`).
    """

    job: Job
    error: str
    has_folder: bool = True
    is_outside: bool = False

    def write(self) -> Summary:
        """Write a summary with the error, if the folder permits it."""
        job = self.job
        summary = beginning(job.config, job.overrides, job.command, job.sweep)
        summary |= {"error": self.error, "seconds": None}
        if self.is_outside:
            summary["outside"] = True
        if self.has_folder:
            folder = RunFolder(job.folder)
            with suppress(UserError, OSError), folder.locked():  # the folder may be another run's now, or the disk full
                if not folder.config.is_file():
                    folder.create(job.config, job.overrides)
                folder.write_summary(summary)
        return summary
