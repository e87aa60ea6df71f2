"""Find the processes of a sweep, including orphans, by a mark in their environment."""

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MARK", "Process", "find", "send"]

MARK = "BNLAB_BENCH_CHAOS"


@dataclass(frozen=True)
class Process:
    """
    Attributes:
        role: what it does in the sweep: main, fork server, plot server, data server, worker, ...
        born: the start in ticks since the machine started, which distinguishes it from a later process with its number.
    """

    pid: int
    parent: int
    role: str
    born: int


def find(mark: str) -> list[Process]:
    """Return the live processes with `mark` in their environment, the oldest first."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):  # it has ended
                if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    state, parent, *rest = (folder / "stat").read_text().rpartition(")")[2].split()
                    if state not in "ZX":
                        command = (folder / "cmdline").read_text()
                        found.append((int(rest[17]), int(folder.name), int(parent), command))
    return _with_roles(sorted(found))


def _with_roles(found: list[tuple[int, int, int, str]]) -> list[Process]:
    commands = {pid: command for _, pid, _, command in found}
    roles: dict[int, str] = {}
    for _, pid, parent, command in found:
        is_fork = commands.get(parent) == command
        if not is_fork or parent not in roles:
            roles[pid] = next((role for sign, role in _BY_COMMAND.items() if sign in command), "other")
        else:
            of_parent = roles[parent]
            has_plot_server = of_parent == "fork server" and "plot server" in roles.values()
            roles[pid] = "data server" if has_plot_server else _FORK_OF.get(of_parent, f"fork of {of_parent}")
    return [Process(pid, parent, roles[pid], born) for born, pid, parent, _ in found]


_BY_COMMAND = {
    "bnlab.stacked.processes.fork_server": "fork server",
    "popen_loky": "joblib worker",
    "resource_tracker": "resource tracker",
    "bnlab.train": "main",
}
_FORK_OF = {"fork server": "plot server", "plot server": "plotter", "data server": "waiter", "waiter": "worker"}


def send(processes: Iterable[Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)
