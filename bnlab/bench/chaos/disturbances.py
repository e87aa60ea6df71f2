"""The disturbances of a running sweep: each function causes one and says what it did."""

import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from bnlab.bench.chaos.database import Server
from bnlab.bench.chaos.memory import MemoryGroup
from bnlab.bench.chaos.processes import Process, find, send

__all__ = ["DISTURBANCES", "OF_THE_DATABASE", "Target", "damage"]

_LONGEST_HOLD_S = 5.0
_SMALL_MACHINE = 450 << 20  # bytes; even one process with its workers needs more


@dataclass
class Target:
    """A running sweep.

    Attributes:
        mark: the mark of its processes.
        folder: the sweep's folder.
        working_folder: the current folder of its command.
        memory: the control group of its processes; None if none can be made.
        database: the server that holds its study; None if that is a file.
        is_over: whether its command has ended.
        has_lost_files: whether a disturbance may rightly make a trial fail.
    """

    mark: str
    folder: Path
    working_folder: Path
    memory: MemoryGroup | None
    database: Server | None
    is_over: Callable[[], bool]
    has_lost_files: bool = field(default=False)

    def processes(self) -> list[Process]:
        return find(self.mark)

    def wait(self, seconds: float) -> None:
        """Wait for `seconds`, or until the command has ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.is_over():
            time.sleep(0.02)


def _kill_one(target: Target, generator: random.Random) -> str:
    """Kill a process; each role is equally likely."""
    processes = target.processes()
    roles = sorted({process.role for process in processes})
    if not roles:
        return "no process was left to kill"
    role = generator.choice(roles)
    victim = generator.choice([process for process in processes if process.role == role])
    send([victim], signal.SIGKILL)
    return f"killed its {role}"


def _kill_main(target: Target, generator: random.Random) -> str:
    send([process for process in target.processes() if process.role == "main"][:1], signal.SIGKILL)
    return "killed its main process"


def _kill_all(target: Target, generator: random.Random) -> str:
    send(target.processes(), signal.SIGKILL)
    return "killed all its processes"


def _ask_to_end(target: Target, generator: random.Random) -> str:
    number = generator.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    to_all = generator.random() < 0.5
    is_impatient = generator.random() < 0.3
    for _ in range(2 if is_impatient else 1):
        processes = target.processes()
        send(processes if to_all else [each for each in processes if each.role == "main"][:1], number)
        target.wait(generator.uniform(0.05, 1.0))
    return f"sent {'two ' if is_impatient else ''}{number.name} to {'all' if to_all else 'main'}"


def _stop(target: Target, generator: random.Random) -> str:
    processes = target.processes()
    roles = sorted({process.role for process in processes})
    if not roles:
        return "no process was left to stop"
    role = generator.choice([*roles, "all"])
    victims = [process for process in processes if role in ("all", process.role)]
    seconds = generator.uniform(0.2, _LONGEST_HOLD_S)
    send(victims, signal.SIGSTOP)
    try:
        target.wait(seconds)
    finally:
        send(victims, signal.SIGCONT)
    return f"stopped {'all processes' if role == 'all' else f'its {role}'} for {seconds:.1f} s"


def _fill_disk(target: Target, generator: random.Random) -> str:
    seconds = generator.uniform(0.2, _LONGEST_HOLD_S)
    with _ballast(target.folder.parent / "ballast"):
        target.wait(seconds)
    return f"filled the disk for {seconds:.1f} s"


@contextmanager
def _ballast(path: Path) -> Iterator[None]:
    """Fill the disk; space that is freed later stays free."""
    try:
        with suppress(OSError), path.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        yield
    finally:
        path.unlink(missing_ok=True)


def _remove_folder(target: Target, generator: random.Random) -> str:
    """Remove the folder of a running trial."""
    for _ in range(50):
        begun = sorted(
            folder
            for folder in target.folder.glob("*")  # the sweep's folder may not exist yet
            if folder.name.isdecimal() and not (folder / "summary.json").exists()
        )
        if begun or target.is_over():
            break
        target.wait(0.1)
    if not begun:
        return "no trial was running"
    folder = generator.choice(begun)
    target.has_lost_files = True
    shutil.rmtree(folder, ignore_errors=True)
    return f"removed the folder {folder.name}"


def _remove_working_folder(target: Target, generator: random.Random) -> str:
    shutil.rmtree(target.working_folder, ignore_errors=True)
    target.has_lost_files = True  # new processes would end, because the BLAS does not find its own files
    return "removed the working folder"


def _limit_memory(target: Target, generator: random.Random) -> str:
    assert target.memory is not None
    share, seconds = generator.uniform(0.5, 1.0), generator.uniform(0.5, _LONGEST_HOLD_S)
    is_small_machine = generator.random() < 0.3
    limit = target.memory.limit(_SMALL_MACHINE if is_small_machine else int(share * target.memory.used))
    try:
        target.wait(seconds)
    finally:
        target.memory.lift()
    return f"limited its memory to {limit >> 20} MiB for {seconds:.1f} s"


def _stop_database(target: Target, generator: random.Random) -> str:
    assert target.database is not None
    seconds = generator.uniform(0.5, _LONGEST_HOLD_S)
    is_killed = generator.random() < 0.5
    (target.database.kill if is_killed else target.database.stop)()
    try:
        target.wait(seconds)
    finally:
        target.database.start()
    return f"{'killed' if is_killed else 'stopped'} the database for {seconds:.1f} s"


def _damage(target: Target, generator: random.Random) -> str:
    """Kill all processes as a crash of the machine does; `damage` then damages a file."""
    send(target.processes(), signal.SIGKILL)
    return "killed all its processes"


def damage(folder: Path, running: list[str], generator: random.Random) -> str:
    """Damage a file of a killed sweep: the end of its journal, or a file of one of the trials `running`."""
    files = [
        path
        for name in running
        for file in ("summary.json", "metrics.csv", "config.yaml")
        if (path := folder / name / file).is_file()
    ]
    journal = folder / "study.journal"
    if journal.is_file() and (not files or generator.random() < 0.4):
        content = journal.read_bytes()
        cut = generator.randrange(len(content) * 2 // 3, len(content) + 1)
        what, end = generator.choice(
            (("half a line", b'{"op_code":'), ("rubbish", b"\x00\xff rubbish\n"), ("nothing", b""))
        )
        journal.write_bytes(content[:cut] + end)
        return f"cut {len(content) - cut} bytes from the journal and left {what} there"
    if not files:
        return "found no file to damage"
    file = generator.choice(sorted(files))
    content = file.read_bytes()
    what, left = generator.choice(
        (
            ("emptied", b""),
            ("halved", content[: len(content) // 2]),
            ("zeroed", bytes(len(content))),
            ("overwrote", b"[]"),
        )
    )
    file.write_bytes(left)
    return f"{what} {file.relative_to(folder)}"


OF_THE_DATABASE = "stopped database"
DISTURBANCES: dict[str, Callable[[Target, random.Random], str]] = {
    "kill one": _kill_one,
    "kill main": _kill_main,
    "kill all": _kill_all,
    "ask to end": _ask_to_end,
    "stop": _stop,
    "full disk": _fill_disk,
    "removed folder": _remove_folder,
    "removed working folder": _remove_working_folder,
    "memory limit": _limit_memory,
    "damaged file": _damage,
    OF_THE_DATABASE: _stop_database,
}
