"""The process that workers are forked from, so that torch is imported once: `ForkServer` starts it, `main` runs in it.

It is asked for each worker by a line of JSON on a socket, its standard input: {"data": their key, "config": the config
of a job that trains on them}. A data server, forked for these data, reads them and forks the workers, which thereby
share the memory. If reading ends the data server, as a user's own data set may do, workers are forked without data and
read them themselves. Each worker sends back one end of its own connection. Its parent, a process that does nothing
else, finally reports on it how the worker ended: ("died", exit code). If no process can be forked, "-" is sent instead.
The fork server and its data servers end when the socket is closed, and a worker when its connection is.
"""

import gc
import json
import os
import signal
import socket
import subprocess
import threading
from argparse import ArgumentError, ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from bnlab.process.import_path import python, safe_environment
from bnlab.process.shared_process import in_root_folder, leave_removed_folder, restored
from bnlab.process.signals import REQUESTS, leave_to_parent

if TYPE_CHECKING:
    from bnlab.stacked.processes.plotter import Plotter

__all__ = ["CANNOT_FORK", "ForkServer", "NoProcessError", "early_fork_server", "fork_server", "main"]

CANNOT_FORK = os.EX_TEMPFAIL  # exit code of a fork server that could not start

_NONE = b"-"  # sent instead of a worker

# One thread each: n processes of n threads would compete for n cores.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
# torch searches for backends of other devices at import, which is slow; set this variable to 1 to use one.
_NO_OTHER_DEVICES = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}


class NoProcessError(OSError):
    """A worker could not be forked: no more processes can be started for now."""


class ForkServer:
    """A process that has begun to import torch; it accepts requests at once."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                python("bnlab.stacked.processes.fork_server"),
                stdin=theirs.fileno(),
                env=_NO_OTHER_DEVICES | os.environ | _ONE_THREAD | safe_environment(),
            )

    def fileno(self) -> int:
        """Return the socket's descriptor, readable when a worker can be taken or the process has ended."""
        return self._socket.fileno()

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def order(self, data: str, config: Mapping[str, Any]) -> None:
        """Request a worker that has the data of `config`, whose key is `data`, in memory."""
        self._tell({"data": data, "config": config})

    def take(self) -> tuple[Connection, int, str] | None:
        """Return the next worker's connection, process id and data key; None if the fork server has ended.

        Raises:
            NoProcessError: the worker could not be forked.
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
        """End the process; with `wait`, return only when its memory is freed."""
        self._socket.close()
        self._process.kill()
        if wait:
            self._process.wait()

    def _tell(self, message: Any) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # the caller that waits for a worker sees the exit code
            self._socket.sendall(json.dumps(message).encode() + b"\n")


_early: ContextVar[ForkServer | None] = ContextVar("_early", default=None)


@contextmanager
def early_fork_server(arguments: Sequence[str]) -> Iterator[None]:
    """Start a fork server early if the command line's `arguments` ask for stacked training.

    It imports torch while this process reads the configs. If it is not used, it is ended on leaving the block.
    """
    token = _early.set(ForkServer() if _requests_stacks(arguments) else None)
    try:
        yield
    finally:
        unused = _early.get()
        _early.reset(token)
        if unused is not None:
            unused.close()


def _requests_stacks(arguments: Sequence[str]) -> bool:
    """Guess before Hydra is imported: a config may ask for stacks, too, and an option may end the command."""
    parser = ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("-m", "--multirun", action="store_true")
    try:
        options, words = parser.parse_known_args(arguments)
    except ArgumentError:  # Hydra's parser reports it
        return False
    values = dict(word.partition("=")[::2] for word in words)
    return options.multirun and values.get("hydra/launcher") == "stacked"


def fork_server() -> ForkServer:
    """Return the fork server that was started early, or a new one."""
    early = _early.get()
    _early.set(None)
    return ForkServer() if early is None else early


def main() -> None:
    for number in REQUESTS:
        signal.signal(number, signal.SIG_IGN)  # the parent handles them
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the children
    gc.disable()  # imports make little garbage, and collection slows them
    leave_removed_folder()
    parent = socket.socket(fileno=os.dup(0))
    orders = parent.makefile()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # a data set that reads stdin must not read requests
    from bnlab.stacked.processes.plotter import Plotter, start_plot_server

    try:
        plot_server = start_plot_server(close_in_child=[orders, parent])
    except OSError:
        os._exit(CANNOT_FORK)
    with in_root_folder():  # torch asks for the current folder when it is imported
        import torch

        from bnlab.batch_norm.back_ends import kernel
        from bnlab.internals.torch_internals import skip_compiler_import
        from bnlab.stacked.compiled.c_functions import functions_of
        from bnlab.stacked.processes import worker

    torch.set_num_threads(1)
    # Loaded once for all workers, so that a broken compiler is reported once.
    if kernel.is_available():
        functions_of(torch.float32)
    skip_compiler_import()

    def fork_worker(key: str, *close_in_child: socket.socket) -> None:
        try:
            is_worker = os.fork() == 0
        except OSError:
            parent.sendall(_NONE)
            return
        if is_worker:
            try:
                for each in close_in_child:
                    each.close()
                orders.close()
                _work(key, parent, plot_server, Plotter(plot_server), worker.serve)
            finally:
                os._exit(0)  # whatever happens, a worker must not continue as a fork server

    data_server: _DataServer | None = None
    with suppress(BrokenPipeError, ConnectionResetError):  # the parent was killed
        for line in orders:
            wanted = json.loads(line)
            if data_server is None or data_server.data != wanted["data"]:
                if data_server is not None:
                    data_server.close()
                try:
                    data_server = _DataServer(wanted["data"], wanted["config"], fork_worker)
                except OSError:
                    data_server = None
            if data_server is None:
                fork_worker(wanted["data"])
            elif not data_server.forks_worker():
                fork_worker(wanted["data"], data_server.socket)
    os._exit(0)  # Python's own exit is slow and has nothing left to do


def _work(
    key: str, parent: socket.socket, plot_server: socket.socket, plotter: "Plotter", serve: Callable[..., None]
) -> None:
    theirs, ours = socket.socketpair()
    connection = Connection(ours.detach())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # otherwise the exit code of the child is lost
    try:
        child = os.fork()
    except OSError:
        parent.sendall(_NONE)
        return
    if child != 0:
        for each in (theirs, parent, plot_server):
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
    plot_server.close()
    serve(connection, plotter)


class _DataServer:
    """A fork of the fork server that reads the data of `config` and forks workers that have them in memory."""

    def __init__(self, data: str, config: Mapping[str, Any], fork_worker: Callable[..., None]) -> None:
        self.data = data
        self.socket, theirs = socket.socketpair()
        with theirs:
            parent = os.getpid()
            if os.fork() == 0:
                try:
                    self.socket.close()
                    os.register_at_fork(after_in_child=theirs.close)  # an open copy would keep the fork server waiting
                    _read(config, parent)
                    gc.freeze()  # a collection would write to shared pages
                    while theirs.recv(1):
                        fork_worker(data, theirs)
                        theirs.send(b"+")
                finally:
                    os._exit(0)

    def forks_worker(self) -> bool:
        """Fork a worker; return False if the data server is gone."""
        try:
            self.socket.sendall(b"+")
            return self.socket.recv(1) == b"+"
        except (BrokenPipeError, ConnectionResetError):
            return False

    def close(self) -> None:
        self.socket.close()


def _read(config: Mapping[str, Any], parent: int) -> None:
    """Load the data for future workers, until `parent` is gone. If that fails, the worker will report it."""
    from omegaconf import OmegaConf

    from bnlab.stacked.data import load_data

    leave_to_parent()
    is_read = threading.Event()

    def end_with_parent() -> None:
        while not is_read.wait(0.2):
            if os.getppid() != parent:
                os._exit(0)

    guard = threading.Thread(target=end_with_parent)
    guard.start()
    try:
        with suppress(Exception), restored():
            load_data(OmegaConf.create(dict(config)))
    finally:
        is_read.set()
        guard.join()  # no thread may run when workers are forked


if __name__ == "__main__":
    main()
