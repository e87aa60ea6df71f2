"""The statuses of a run or a trial: the words that files, tables and messages use, and their meanings."""

from enum import StrEnum

__all__ = ["Status"]


class Status(StrEnum):
    """A status; its value is the word in files, `meaning` the sentence for readers.

    A run's summary.json has one of the first five. A study also has waiting and running trials, a comparison also has
    runs whose process is still running or died, and a figure also has configurations that lack some of their seeds.
    """

    COMPLETED = "completed", "trained to its end"
    DIVERGED = "diverged", "its loss became infinite or NaN"
    PRUNED = "pruned", "stopped early by search.pruner"
    FAILED = "failed", "ended by an error"
    INTERRUPTED = "interrupted", "stopped by something other than the training; a sweep retries it"
    WAITING = "waiting", "not started yet"
    RUNNING = "running", "still training"
    UNFINISHED = "unfinished", "its process ended without a summary"
    INCOMPLETE = "incomplete", "some of its seeds have no result yet"

    meaning: str

    def __new__(cls, word: str, meaning: str = "") -> "Status":
        member = str.__new__(cls, word)
        member._value_ = word
        member.meaning = meaning
        return member

    __repr__ = str.__repr__  # a summary is displayed as it is in its file

    @property
    def is_ranked(self) -> bool:
        """Whether its objective counts; the result of a diverged run is what it had reached before."""
        return self in (Status.COMPLETED, Status.DIVERGED)

    @property
    def has_results(self) -> bool:
        """Whether the training ended by itself, so that the folder is complete."""
        return self.is_ranked or self is Status.PRUNED

    @property
    def is_final(self) -> bool:
        """Whether it has ended and is not retried automatically."""
        return self.has_results or self is Status.FAILED

    @property
    def is_of_a_run(self) -> bool:
        """Whether summary.json may contain it."""
        return self.is_final or self is Status.INTERRUPTED
