"""How a run or a trial stands: one word for it in every file, table and message, and what the word means."""

from enum import StrEnum

__all__ = ["Status"]


class Status(StrEnum):
    """A member is the word that files hold; `meaning` is the sentence for readers.

    A run's summary.json has one of the first five. A study also has trials that wait or run, a comparison also has runs
    whose process is still at work or died, and a figure also has configurations that lack some of their seeds.
    """

    COMPLETED = "completed", "trained to its end"
    DIVERGED = "diverged", "its loss became infinite or NaN"
    PRUNED = "pruned", "stopped early by search.pruner"
    FAILED = "failed", "ended by an error"
    INTERRUPTED = "interrupted", "ended from outside; a sweep tries its values again"
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

    __repr__ = str.__repr__  # a summary is shown as its file has it

    @property
    def is_ranked(self) -> bool:
        """Whether its objective counts: what a diverged run had reached before is its result."""
        return self in (Status.COMPLETED, Status.DIVERGED)

    @property
    def has_results(self) -> bool:
        """Whether the training came to an end of its own, so that the folder is complete."""
        return self.is_ranked or self is Status.PRUNED

    @property
    def is_final(self) -> bool:
        """Whether it ended and is not tried again by itself."""
        return self.has_results or self is Status.FAILED

    @property
    def is_of_a_run(self) -> bool:
        """Whether summary.json may say so."""
        return self.is_final or self is Status.INTERRUPTED
