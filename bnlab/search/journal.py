"""The file in which a study is kept: Optuna's journal, written at the cost of a write, not of three of the disk's."""

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend

__all__ = ["Journal", "mend"]

_TO_DISK_EVERY_S = 1.0


class Journal(JournalFileBackend):
    """Optuna's file format, which its own class reads, and `optuna-dashboard` too.

    Optuna locks by making and deleting a file, which a killed process leaves behind, and waits for the disk at each
    line: some 6 ms each. Here the lock is the kernel's, which ends with its owner, and the disk is waited for once a
    second. What is not there yet survives the end of the process, though not that of the machine.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path
        self._on_disk = time.monotonic()

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with self._path.open("ab", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(lines)  # one write of the system: a killed process has written all of it or nothing
            if time.monotonic() > self._on_disk + _TO_DISK_EVERY_S:
                os.fsync(file.fileno())
                self._on_disk = time.monotonic()


def mend(path: Path) -> None:
    """Cut off a line whose end is missing, as a machine that went off while writing leaves it."""
    if not path.is_file():
        return
    with path.open("rb+") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
