"""A private PostgreSQL server, which can be stopped and killed."""

import glob
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["NoServerError", "Server"]

_PROGRAMS = "/usr/lib/postgresql/*/bin"  # where Debian keeps them, outside the users' path
_USER = "postgres"  # because root must not run it
_PORTS = range(
    20_000, 32_000
)  # below the ports that the system gives to clients, which could take one while the server is down
_PATIENCE_S = 60  # until the processes of a killed server release its memory and its port


def _free_port() -> int:
    """Find a free local port.

    Raises:
        OSError: none is free.
    """
    for port in random.sample(_PORTS, 100):
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
    raise OSError(f"no port from {_PORTS.start} to {_PORTS.stop} is free")


class NoServerError(RuntimeError):
    """No server can be started; the message says why."""


class Server:
    """A server that runs on a free local port, with its data in a temporary folder.

    Attributes:
        url: the address of its database, for `search.storage`.
    Raises:
        NoServerError: PostgreSQL, or a driver for it, is not installed.
    """

    def __init__(self) -> None:
        found = sorted(glob.glob(f"{_PROGRAMS}/initdb")) or [shutil.which("initdb") or ""]
        if not found[-1]:
            raise NoServerError("no PostgreSQL server is installed (Debian: apt-get install postgresql)")
        if importlib.util.find_spec("psycopg") is None:
            raise NoServerError("no driver for PostgreSQL is installed (pip install 'psycopg[binary]')")
        self._programs = Path(found[-1]).parent
        self._folder = Path(tempfile.mkdtemp(prefix="bnlab-postgresql-"))
        self._data = self._folder / "data"
        self._as_owner: list[str] = []
        try:
            if os.geteuid() == 0:
                shutil.chown(self._folder, _USER)
                self._as_owner = ["runuser", "-u", _USER, "--"]
            self._call("initdb", "-D", str(self._data), "-U", "bnlab", "--auth=trust", "--no-sync")
            self._port = _free_port()
            self.start()
        except (OSError, LookupError, subprocess.SubprocessError) as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise NoServerError(f"PostgreSQL does not start: {error}") from error
        self.url = f"postgresql://bnlab@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        options = f"-p {self._port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return self._control("-o", options, "-l", str(self._folder / "log"), "-w", "start")
            except subprocess.CalledProcessError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def stop(self) -> None:
        """Stop the server as an administrator does; clients are notified."""
        self._control("-m", "fast", "-w", "stop")

    def kill(self) -> None:
        """Kill the server without notifying its clients."""
        process = int((self._data / "postmaster.pid").read_text().split()[0])
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)

    def close(self) -> None:
        """Stop the server, and remove its data."""
        with suppress(subprocess.SubprocessError):  # a stopped process does not react to other signals
            self._control("-m", "immediate", "-w", "stop")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _control(self, *arguments: str) -> None:
        self._call("pg_ctl", "-D", str(self._data), *arguments)

    def _call(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [*self._as_owner, str(self._programs / program), *arguments],
            check=True,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
        )
