"""Pictures from a process beside each worker, which has matplotlib: it is imported there while torch is imported here.

The nursery forks a studio before it imports torch, the studio forks a drawer for each worker. Each ends when the socket
to whoever it works for is closed.
"""

import gc
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from bnlab.curves import Curves

__all__ = ["ANY", "Drawer", "answer", "draw_here", "open_studio"]

_METRICS = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")
ANY = Curves({"epoch": [1, 2, 3], **{name: [0.9, 0.5, 0.1] for name in _METRICS}}, "any", best_epoch=3)


def draw_here(trainings: Sequence[Curves]) -> list[bytes]:
    """`bnlab.figures.pictures_of_many`, in this process."""
    from bnlab.figures import pictures_of_many

    return list(pictures_of_many(trainings))


class Drawer:
    """A process forked from the studio behind the socket `studio`; calling it is `draw_here`, over there."""

    def __init__(self, studio: socket.socket) -> None:
        theirs, ours = socket.socketpair()
        self._connection = Connection(ours.detach())
        with theirs, suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(studio, [b"+"], [theirs.fileno()])

    def __call__(self, trainings: Sequence[Curves]) -> list[bytes]:
        try:
            self._connection.send(trainings)
            return self._connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return draw_here(trainings)  # it was killed, or could not draw these, which will be said here


def open_studio(not_its: Sequence[Any] = ()) -> socket.socket:
    """Fork the process that drawers are forked from, and return the socket to it; `not_its` files are closed there."""
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        try:
            for file in not_its:
                file.close()
            ours.close()
            _fork_drawers(theirs)
        finally:
            os._exit(0)
    theirs.close()
    return ours


def _fork_drawers(orders: socket.socket) -> None:
    draw_here([ANY])  # before the fork: each drawer has what the first picture takes
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
    """Draw what comes until it closes."""
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            connection.send(draw_here(connection.recv()))
