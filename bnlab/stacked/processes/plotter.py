"""Plot in a process beside each worker, which imports matplotlib while torch is imported elsewhere.

The fork server forks a plot server before it imports torch, and the plot server forks one plotter per worker. Each of
them ends when its client closes the socket.
"""

import gc
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from bnlab.curves import Curves
from bnlab.metrics import columns_of

__all__ = ["ANY", "Plotter", "answer", "plot_here", "start_plot_server"]

ANY = Curves({"epoch": [1, 2, 3], **{name: [0.9, 0.5, 0.1] for name in columns_of({})}}, "any", best_epoch=3)


def plot_here(trainings: Sequence[Curves]) -> list[bytes]:
    """Call `bnlab.figures.pictures_of_many` in this process."""
    from bnlab.figures import pictures_of_many

    return list(pictures_of_many(trainings))


class Plotter:
    """A process forked from the plot server behind the socket `server`; a call runs `plot_here` in it."""

    def __init__(self, server: socket.socket) -> None:
        theirs, ours = socket.socketpair()
        self._connection = Connection(ours.detach())
        with theirs, suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(server, [b"+"], [theirs.fileno()])

    def __call__(self, trainings: Sequence[Curves]) -> list[bytes]:
        try:
            self._connection.send(trainings)
            return self._connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return plot_here(trainings)  # it was killed or failed; a failure is raised here


def start_plot_server(close_in_child: Sequence[Any] = ()) -> socket.socket:
    """Fork the process that plotters are forked from, which closes `close_in_child`; return the socket to it."""
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        try:
            for file in close_in_child:
                file.close()
            ours.close()
            _fork_plotters(theirs)
        finally:
            os._exit(0)
    theirs.close()
    return ours


def _fork_plotters(orders: socket.socket) -> None:
    plot_here([ANY])  # before the fork, so that each plotter has what the first picture loads
    gc.freeze()
    while True:
        _, descriptors, *_ = socket.recv_fds(orders, 1, 1)
        if not descriptors:
            return
        if os.fork() == 0:
            gc.enable()
            orders.close()
            answer(Connection(descriptors[0]))
            return
        os.close(descriptors[0])


def answer(connection: Connection) -> None:
    """Plot what arrives until the connection closes."""
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            connection.send(plot_here(connection.recv()))
