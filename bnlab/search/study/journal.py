"""Replaces Optuna's journal file, whose lock outlives a killed process and which syncs per line; delete when mended.

The format is Optuna's. Figures: bnlab/bench/records/library_functions.md.
"""

import fcntl
import io
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend

from bnlab.io.atomic_file import write_bytes

__all__ = ["Journal", "mend"]

_TO_DISK_EVERY_S = 1.0
_BLOCK = 4096
_BEGINNING = b'{"op_code":'  # of each line


class Journal(JournalFileBackend):
    """A journal in Optuna's file format, which Optuna's own class and `optuna-dashboard` read.

    Optuna locks by creating and deleting a file, which remains if the process is killed, and syncs each line to disk
    (bnlab/bench/records/search.md). Here the kernel holds the lock, which ends with its owner, and the file is synced
    only now and then. Lines that are not yet synced survive a kill, but not a power cut.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path
        self._on_disk = time.monotonic()

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write all of `logs`, or nothing.

        Raises:
            OSError: writing failed, for example on a full disk; the file is unchanged.
        """
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with _locked(self._path) as file:
            end = _cut_torn_line(file)
            try:
                _write(file, lines)
                if time.monotonic() > self._on_disk + _TO_DISK_EVERY_S:
                    os.fsync(file)
                    self._on_disk = time.monotonic()
            except BaseException:
                with suppress(OSError):  # the next writer cuts off the incomplete line
                    os.ftruncate(file, end)
                raise

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """Read the logs, after waiting for a writer that may still take its lines back."""
        with _locked(self._path, fcntl.LOCK_SH):
            logs = list(super().read_logs(log_number_from))
        yield from logs


@contextmanager
def _locked(path: Path, kind: int = fcntl.LOCK_EX) -> Iterator[int]:
    """Open and lock the file, without creating it again if it was removed."""
    file = os.open(path, os.O_RDWR | os.O_APPEND if kind == fcntl.LOCK_EX else os.O_RDONLY)
    try:
        fcntl.flock(file, kind)
        yield file
    finally:
        os.close(file)


def _write(file: int, content: bytes) -> None:
    """Write all of `content`; on a nearly full disk, a single write may write only a part."""
    left = memoryview(content)
    while left:
        left = left[os.write(file, left) :]


def _cut_torn_line(file: int) -> int:
    """Cut off an incomplete last line, such as a process writes that is killed on a full disk.

    Returns:
        the size of the file.
    """
    size = os.fstat(file).st_size
    if size == 0 or os.pread(file, 1, size - 1) == b"\n":
        return size
    end = size
    while end > 0:
        start = max(0, end - _BLOCK)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    os.ftruncate(file, end)
    return end


def mend(path: Path) -> None:
    """Cut `path` before the first line that Optuna cannot read.

    The rest is set aside in a file `.damaged-<n>`, and a line on stderr says so. An incomplete last line, which a power
    cut may cause, is dropped silently.
    """
    if path.exists() and not path.is_file():
        aside = _free_name(path)
        path.rename(aside)
        print(f"{path.name} is not a file: it is set aside as {aside.name}.", file=sys.stderr)
    if not path.is_file():
        return
    with _locked(path) as file:
        content = path.read_bytes()
        sound = _sound(content)
        rest = content[sound:]
        if not rest:
            return
        is_torn = b"\n" not in rest and rest[: len(_BEGINNING)] == _BEGINNING[: len(rest)]
        if not is_torn:
            aside = _free_name(path)
            write_bytes(aside, rest)
            line = content.count(b"\n", 0, sound) + 1
            print(
                f"{path.name} is damaged from line {line} on: it is read up to there, and the rest is set aside in "
                f"{aside.name}.",
                file=sys.stderr,
            )
        os.ftruncate(file, sound)
        os.fsync(file)


def _free_name(path: Path) -> Path:
    number = 1
    while (name := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    return name


def _sound(content: bytes) -> int:
    """Count the leading bytes that are lines from which Optuna can build a study."""
    replay = _Replay(content)
    with suppress(Exception):  # Optuna raises various errors for damaged lines
        JournalStorage(replay)
    return replay.num_bytes


class _Replay(BaseJournalBackend):
    """A journal in memory that records how far it was read without an error."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.num_bytes = 0

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        assert log_number_from == 0
        for line in io.BytesIO(self._content):
            if not line.endswith(b"\n"):
                return
            yield json.loads(line)
            self.num_bytes += len(line)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise AssertionError("nothing is written while a journal is read")
