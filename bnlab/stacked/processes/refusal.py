"""A job that cannot be done, and the summary that says so."""

from contextlib import suppress
from dataclasses import dataclass

from bnlab.errors import UserError
from bnlab.runs.folder import RunFolder
from bnlab.runs.summary import Summary, beginning
from bnlab.stacked.job import Job

__all__ = ["Refusal"]


@dataclass(frozen=True)
class Refusal:
    """A job that cannot be done, and why; `has_folder` unless its folder is another run's.

    `is_outside` where that is no fault of its own (`bnlab.process.outside`).
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
            with suppress(UserError, OSError), folder.locked():  # unless it has become another run's, or is full
                if not folder.config.is_file():
                    folder.create(job.config, job.overrides)
                folder.write_summary(summary)
        return summary
