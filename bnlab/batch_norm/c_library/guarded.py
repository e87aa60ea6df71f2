"""Run commands that do not outlive the process that wants their result.

The command runs in its own session below a small supervisor, this file as a script. The supervisor ends the session
when the time is up or when the process that started it is gone. A `finally` does not survive kill -9, and the signal
that Linux sends at the death of a parent reaches only the first of a compiler's processes.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["run"]


def run(command: Sequence[str], folder: Path, seconds: float) -> tuple[int, str]:
    """Run a command that works in `folder`, which is also where it puts its temporary files.

    Args:
        folder: the working folder, removed if this process dies meanwhile.
        seconds: the time limit; then the command and everything that it started are killed.
    Returns:
        The exit status and the output, in whatever encoding.
    Raises:
        OSError: the command cannot be started, or the supervisor was killed.
        subprocess.TimeoutExpired: the time is up.
    """
    end = time.monotonic() + seconds
    status = folder / "status"
    status.unlink(missing_ok=True)
    supervisor = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(seconds), str(folder), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        supervisor.wait(seconds + 10)
    finally:
        # The supervisor's exit status is useless: a signal ends it, and an ignored SIGCHLD hides even that.
        if supervisor.returncode is None or not status.exists():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(supervisor.pid, signal.SIGKILL)
            supervisor.wait()
    if not status.exists():
        if time.monotonic() < end:
            raise OSError("it was killed from outside")
        raise subprocess.TimeoutExpired(command, seconds)
    ended, _, problem = status.read_text(errors="replace").partition(" ")
    if problem:
        raise OSError(problem)
    return int(ended), (folder / "output").read_bytes().decode(errors="replace")


def supervise(parent: int, seconds: float, folder: Path, command: Sequence[str]) -> None:
    end = time.monotonic() + seconds
    # Children inherit ignored signals, and an ignored SIGCHLD would hide the command's exit status.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with open(folder / "output", "wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": str(folder)},
            )
    except OSError as error:
        tell(folder, f"1 {error}")
        return
    while process.poll() is None and time.monotonic() < end and os.getppid() == parent:
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
    if process.returncode is not None:
        tell(folder, str(process.returncode))
    if os.getppid() != parent:
        os.killpg(0, signal.SIGTERM)  # a compiler must not write to a folder that is being removed
        with suppress(subprocess.TimeoutExpired):
            process.wait(1)
        shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)  # this process and all that the command left running


def tell(folder: Path, text: str) -> None:
    """Write the status atomically, so that the parent never reads half of it."""
    unfinished = folder / "status.tmp"
    unfinished.write_text(text)
    unfinished.replace(folder / "status")


if __name__ == "__main__":
    supervise(int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
