"""How often a stack writes its state: seldom enough to cost little, often enough to lose little.

If the last writing took c seconds, the next one is due when the stack has trained since then for at least

    max(EVERY_S, c / SHARE)

so that writing takes at most SHARE of the time, and a kill costs at most that many seconds of training. At first, c
is estimated from the bytes to be written.
"""

import os

__all__ = ["Pace"]

EVERY_S = float(os.environ.get("BNLAB_WRITE_EVERY_S") or 10.0)  # a shorter training is cheaper to repeat
SHARE = 0.03
BYTES_PER_S = 100e6  # the speed of a slow disk


class Pace:
    """The times at which to write; all are of one clock, in seconds.

    Args:
        num_bytes: the number of bytes of the first writing.
        now: the time at which the training begins.
    """

    def __init__(self, num_bytes: int, now: float) -> None:
        self._due = now + _pause(num_bytes / BYTES_PER_S)

    def is_due(self, now: float) -> bool:
        return now >= self._due

    def wrote(self, begun: float, ended: float) -> None:
        """Report that writing took from `begun` to `ended`, whether or not it succeeded."""
        self._due = ended + _pause(ended - begun)


def _pause(cost: float) -> float:
    return max(EVERY_S, cost / SHARE)
