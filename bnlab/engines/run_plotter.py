"""The plotter of a single run: a second process imports matplotlib while this one imports torch."""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection, Pipe

from bnlab.curves import Curves
from bnlab.process.signals import REQUESTS
from bnlab.stacked.processes.plotter import ANY, answer, plot_here

__all__ = ["RunPlotter"]


class RunPlotter:
    """A process that plots; a call runs `bnlab.stacked.processes.plotter.plot_here` there.

    It is forked only at the start of a program, while there is little to copy; otherwise this process plots.
    """

    def __init__(self) -> None:
        self._connection: Connection | None = None
        if sys.platform == "linux" and "torch" not in sys.modules and threading.active_count() == 1:
            self._fork()

    def _fork(self) -> None:
        ours, theirs = Pipe()
        if os.fork() == 0:
            try:
                for number in REQUESTS:
                    signal.signal(number, signal.SIG_IGN)  # the parent handles them
                ours.close()
                nothing = os.open(os.devnull, os.O_RDWR)
                for descriptor in (0, 1, 2):  # a reader of the output must not wait for this process
                    os.dup2(nothing, descriptor)
                plot_here([ANY])
                answer(theirs)
            finally:
                os._exit(0)
        theirs.close()
        self._connection = ours

    def __enter__(self) -> "RunPlotter":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._connection is not None:
            self._connection.close()

    def __call__(self, trainings: Sequence[Curves]) -> list[bytes]:
        if self._connection is not None:
            try:
                self._connection.send(trainings)
                return self._connection.recv()
            except (EOFError, BrokenPipeError, ConnectionResetError):
                pass  # it was killed or failed; a failure is raised here
        return plot_here(trainings)
