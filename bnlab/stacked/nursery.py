"""The process that workers are forked from, so that torch is imported once: `Nursery` starts it, `main` is its work.

Over a socket, which is its standard input, it is told of each worker to fork by a line of JSON: {"data": their key,
"config": of a job that trains on them}. Data are read before the fork, so that all workers share their memory. A worker
sends back an end of a connection of its own. The nursery ends when the socket is closed, and a worker when its
connection is.
"""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["Nursery", "begun_early", "main", "start"]

# One thread each, or n processes of n threads would fight for n cores.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
# To look for backends of other devices takes torch's import 0.1 s; who wants one sets this variable to 1.
_NO_OTHER_DEVICES = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}


class Nursery:
    """It has begun to start, which takes a second or two; orders can be placed at once."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bnlab.stacked.nursery"],
                stdin=theirs.fileno(),
                env=_NO_OTHER_DEVICES | os.environ | _ONE_THREAD,
            )
        self._tell([entry or os.getcwd() for entry in sys.path])

    def fileno(self) -> int:
        """Readable when a worker can be taken, or the process has ended."""
        return self._socket.fileno()

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def order(self, data: str, config: Mapping[str, Any]) -> None:
        """Ask for a worker that has the data of `config` in memory, whose key is `data`."""
        self._tell({"data": data, "config": config})

    def take(self) -> tuple[Connection, int, str] | None:
        """The next worker's connection, its process id and the key of its data; None when the nursery has ended."""
        try:
            _, descriptors, *_ = socket.recv_fds(self._socket, 1, 1)
        except ConnectionResetError:
            return None
        if not descriptors:
            return None
        connection = Connection(descriptors[0])
        return connection, *connection.recv()

    def close(self, *, wait: bool = True) -> None:
        """End the process; to wait until torch's memory is cleared away takes 30 ms."""
        self._socket.close()
        self._process.kill()
        if wait:
            self._process.wait()

    def _tell(self, message: Any) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # whoever waits for a worker sees the exit code
            self._socket.sendall(json.dumps(message).encode() + b"\n")


_begun: list[Nursery] = []


@contextmanager
def begun_early(arguments: Sequence[str]) -> Iterator[None]:
    """Within, a nursery is on its way already if the command line's `arguments` ask for stacked training.

    It imports torch while this process reads the configs. One that nobody asked for in the end is ended.
    """
    if "hydra/launcher=stacked" in arguments and not {"-m", "--multirun"}.isdisjoint(arguments):
        _begun.append(Nursery())
    try:
        yield
    finally:
        while _begun:
            _begun.pop().close()


def start() -> Nursery:
    """The one that has begun early, or a new one."""
    return _begun.pop() if _begun else Nursery()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries them
    gc.disable()  # all that imports make is kept: looking for garbage takes a tenth of their time
    sys.path[:] = json.loads(sys.stdin.readline())
    from bnlab.stacked.drawing import Drawer, open_studio

    studio = open_studio()
    import torch
    from omegaconf import OmegaConf

    from bnlab.batch_norm import kernel
    from bnlab.stacked import data, worker
    from bnlab.stacked.c_functions import functions_of

    torch.set_num_threads(1)
    # Loaded once for all workers, and what is wrong with a compiler is said once.
    if kernel.is_available():
        functions_of(torch.float32)
    _spare_the_compiler()
    parent = socket.socket(fileno=0)
    for line in sys.stdin:
        wanted = json.loads(line)
        with suppress(Exception):  # the worker will meet it again, and can say so
            data.load_data(OmegaConf.create(wanted["config"]))
        gc.freeze()  # shared pages stay shared
        if os.fork() == 0:
            try:
                gc.enable()
                theirs, ours = socket.socketpair()
                connection = Connection(ours.detach())
                connection.send((os.getpid(), wanted["data"]))
                socket.send_fds(parent, [b"+"], [theirs.fileno()])
                theirs.close()
                parent.close()
                drawer = Drawer(studio)
                studio.close()
                worker.serve(connection, drawer)
            finally:
                os._exit(0)  # whatever happens, a worker does not go on as a nursery
    os._exit(0)  # Python's own way out takes half a second, and has nothing left to do


def _spare_the_compiler() -> None:
    """Keep an optimizer from importing torch's compiler, which takes a second, to say that it is not to be compiled."""
    from torch.optim import Optimizer

    for name in dir(Optimizer):
        inner = getattr(getattr(Optimizer, name), "__wrapped__", None)
        if inner is not None:
            inner.__dynamo_disable = inner  # where torch keeps the answer


if __name__ == "__main__":
    main()
