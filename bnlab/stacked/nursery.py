"""The process that workers are forked from, so that torch is imported once: `Nursery` starts it, `main` is its work.

Over a socket, which is its standard input, it is told of each worker to fork by a line of JSON: {"data": their key,
"config": of a job that trains on them}. A keeper, forked for it, reads the data and forks the workers, which so share
the memory; where reading ends the keeper, as a data set of a user's own may do, workers are forked without data, and
meet it themselves. A worker sends back an end of a connection of its own, over which its parent, a process that does
nothing else, says at last how it ended: ("died", exit code). Where no process can be forked, "-" comes in its place.
The nursery ends when the socket is closed, a keeper with the nursery, and a worker when its connection is.
"""

import gc
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from bnlab.import_path import python, safe_environment
from bnlab.shared_process import leave_removed_folder, restored
from bnlab.signals import REQUESTS, leave_to_parent

if TYPE_CHECKING:
    from bnlab.stacked.drawing import Drawer

__all__ = ["CANNOT_FORK", "NoProcessError", "Nursery", "begun_early", "main", "start"]

CANNOT_FORK = os.EX_TEMPFAIL  # exit code of a nursery that could not even begin

_NONE = b"-"  # in place of a worker

# One thread each, or n processes of n threads would fight for n cores.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
# To look for backends of other devices takes torch's import 0.1 s; who wants one sets this variable to 1.
_NO_OTHER_DEVICES = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}


class NoProcessError(OSError):
    """A worker could not be forked: no more processes can be started, for now."""


class Nursery:
    """It has begun to start, which takes a second or two; orders can be placed at once."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                python("bnlab.stacked.nursery"),
                stdin=theirs.fileno(),
                env=_NO_OTHER_DEVICES | os.environ | _ONE_THREAD | safe_environment(),
            )

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
        """The next worker's connection, its process id and the key of its data; None when the nursery has ended.

        Raises:
            NoProcessError: it could not be forked.
        """
        try:
            sign, descriptors, *_ = socket.recv_fds(self._socket, 1, 1)
        except ConnectionResetError:
            return None
        if sign == _NONE:
            raise NoProcessError
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
    for number in REQUESTS:
        signal.signal(number, signal.SIG_IGN)  # which are for the parent to answer
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries them
    gc.disable()  # all that imports make is kept: looking for garbage takes a tenth of their time
    parent = socket.socket(fileno=os.dup(0))
    orders = parent.makefile()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # what a data set reads from stdin are no orders
    from bnlab.stacked.drawing import Drawer, open_studio

    try:
        studio = open_studio(not_its=[orders, parent])
    except OSError:
        os._exit(CANNOT_FORK)
    import torch

    from bnlab.batch_norm import kernel
    from bnlab.spared_compiler import spare_the_compiler
    from bnlab.stacked import worker
    from bnlab.stacked.c_functions import functions_of

    torch.set_num_threads(1)
    # Loaded once for all workers, and what is wrong with a compiler is said once.
    if kernel.is_available():
        functions_of(torch.float32)
    spare_the_compiler()

    def fork_worker(key: str, *not_its: socket.socket) -> None:
        try:
            is_worker = os.fork() == 0
        except OSError:
            parent.sendall(_NONE)
            return
        if is_worker:
            try:
                for each in not_its:
                    each.close()
                orders.close()
                _work(key, parent, studio, Drawer(studio), worker.serve)
            finally:
                os._exit(0)  # whatever happens, a worker does not go on as a nursery

    keeper: _Keeper | None = None
    for line in orders:
        wanted = json.loads(line)
        if keeper is None or keeper.data != wanted["data"]:
            if keeper is not None:
                keeper.close()
            try:
                keeper = _Keeper(wanted["data"], wanted["config"], fork_worker)
            except OSError:
                keeper = None
        if keeper is None:
            fork_worker(wanted["data"])
        elif not keeper.forks_worker():
            fork_worker(wanted["data"], keeper.socket)
    os._exit(0)  # Python's own way out takes half a second, and has nothing left to do


def _work(key: str, parent: socket.socket, studio: socket.socket, drawer: "Drawer", serve: Callable[..., None]) -> None:
    theirs, ours = socket.socketpair()
    connection = Connection(ours.detach())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else nobody would know how the child ended
    try:
        child = os.fork()
    except OSError:
        parent.sendall(_NONE)
        return
    if child != 0:
        for each in (theirs, parent, studio):
            each.close()
        for number in REQUESTS:
            signal.signal(number, signal.SIG_IGN)
        _, status = os.waitpid(child, 0)
        with suppress(OSError):
            connection.send(("died", os.waitstatus_to_exitcode(status)))
        return
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.enable()
    leave_removed_folder()
    connection.send((os.getpid(), key))
    socket.send_fds(parent, [b"+"], [theirs.fileno()])
    theirs.close()
    parent.close()
    studio.close()
    serve(connection, drawer)


class _Keeper:
    """A fork of the nursery that has the data of `config` in memory, and forks workers; it reads when it is made."""

    def __init__(self, data: str, config: Mapping[str, Any], fork_worker: Callable[..., None]) -> None:
        self.data = data
        self.socket, theirs = socket.socketpair()
        with theirs:
            nursery = os.getpid()
            if os.fork() == 0:
                try:
                    self.socket.close()
                    os.register_at_fork(after_in_child=theirs.close)  # else the nursery would wait for it in vain
                    _read(config, nursery)
                    gc.freeze()  # shared pages stay shared
                    while theirs.recv(1):
                        fork_worker(data, theirs)
                        theirs.send(b"+")
                finally:
                    os._exit(0)

    def forks_worker(self) -> bool:
        """Whether it did; it may be gone."""
        try:
            self.socket.sendall(b"+")
            return self.socket.recv(1) == b"+"
        except (BrokenPipeError, ConnectionResetError):
            return False

    def close(self) -> None:
        self.socket.close()


def _read(config: Mapping[str, Any], nursery: int) -> None:
    """Load the data for the workers to come, until the nursery is gone. What fails is for the worker to say."""
    from omegaconf import OmegaConf

    from bnlab.stacked.data import load_data

    leave_to_parent()
    is_read = threading.Event()

    def end_with_nursery() -> None:
        while not is_read.wait(0.2):
            if os.getppid() != nursery:
                os._exit(0)

    guard = threading.Thread(target=end_with_nursery)
    guard.start()
    try:
        with suppress(Exception), restored():
            load_data(OmegaConf.create(dict(config)))
    finally:
        is_read.set()
        guard.join()  # no thread is there when workers are forked


if __name__ == "__main__":
    main()
