"""How much Python is executed, counted and not timed: a busy machine changes nothing about it."""

import sys
from contextlib import contextmanager


class Counter:
    """Counts the lines that this thread executes between `start` and `stop`, in functions called meanwhile."""

    def __init__(self):
        self.lines = 0

    def start(self):
        sys.settrace(self._called)

    def stop(self):
        sys.settrace(None)

    def _called(self, frame, event, argument):
        frame.f_trace = self._line
        return self._line

    def _line(self, frame, event, argument):
        self.lines += event == "line"
        return self._line


@contextmanager
def counted():
    """Count within the block; a debugger or a coverage tool has its own trace back afterwards."""
    before, counter = sys.gettrace(), Counter()
    counter.start()
    try:
        yield counter
    finally:
        sys.settrace(before)
