"""Run one round: disturb a sweep, resume it until it is done, and compare it."""

import os
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bnlab.bench.chaos.comparison import differences, faults
from bnlab.bench.chaos.database import Server
from bnlab.bench.chaos.disturbances import DISTURBANCES, OF_THE_DATABASE, Target, damage
from bnlab.bench.chaos.kinds import DATABASE, LAUNCHERS, STORAGES, Kind, draw_kind
from bnlab.bench.chaos.memory import MemoryGroup
from bnlab.bench.chaos.processes import MARK, find, send
from bnlab.process.signals import REQUESTS
from bnlab.status import Status

__all__ = ["References", "Round", "draw_round"]

_MOST_RESUMES = 6
_ENDS_WITHIN_S = 20.0  # time for the processes of an ended sweep to end
_HANGS_AFTER_S = 300.0
_DISK = "32m"
_FAIR_CODES = (0, 1, 130, -signal.SIGKILL, -signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP)
# If the working folder is removed before the configs are read, the sweep does not begin.
_NOWHERE = "The current folder was removed"
# If the working folder is removed while torch is imported, its BLAS ends the process.
_TORCHS = "oneMKL FATAL ERROR: Cannot load"
# If the database goes down before the study is opened, the sweep does not begin.
_NO_DATABASE = "cannot be opened"
# If the disk is full before the first trial of a command, the sweep does not begin or continue.
_NO_ROOM = re.compile("No space left on device|database or disk is full")
# A tracker that was killed and started again prints this, which is harmless.
_LOKYS = "loky/backend/resource_tracker.py"


@dataclass
class Round:
    """The draws for a round, and its outcome.

    Attributes:
        disturbances: the names of the disturbances, one for each of the first attempts.
        done: the disturbances for which there was time.
        num_resumes: how often the sweep was resumed or, before it had written its definition, started again.
        events: what happened, in order.
        faults: what is wrong; empty if all is well.
        has_failures: whether a trial failed that was retried later.
    """

    number: int
    kind: Kind
    disturbances: list[str]
    generator: random.Random
    num_resumes: int = 0
    done: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    has_failures: bool = False
    folder: Path | None = None

    @property
    def has_same_draws(self) -> bool:
        """Whether the configurations must be the undisturbed ones; later rounds of a search depend on failures."""
        return self.kind.has_same_draws and not (self.has_failures and self.kind.sampler == "coarse_to_fine")

    def __str__(self) -> str:
        outcome = f"DIFFERENT, see {self.folder}" if self.faults else "equal" if self.has_same_draws else "complete"
        resumes = "1 resume" if self.num_resumes == 1 else f"{self.num_resumes} resumes"
        return f"round {self.number}: {self.kind}: {'; '.join(self.events)}; {resumes}: {outcome}"


def draw_round(
    seed: int,
    number: int,
    disturbances: Sequence[str] = tuple(DISTURBANCES),
    launchers: Sequence[str] = LAUNCHERS,
    storages: Sequence[str] = STORAGES,
) -> Round:
    """Draw round `number`, which does not depend on earlier draws."""
    generator = random.Random(f"{seed} {number}")
    kind = draw_kind(seed, number, launchers, storages)
    possible = [name for name in disturbances if name != OF_THE_DATABASE or kind.storage == DATABASE]
    drawn = [generator.choice(possible)]
    while len(drawn) < 4 and generator.random() < 0.5:
        drawn.append(generator.choice(possible))
    return Round(number, kind, drawn, generator)


class References:
    """The undisturbed sweeps, one for all kinds with the same results, made on first use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[Kind, tuple[Path, float]] = {}

    def get(self, kind: Kind) -> tuple[Path, float]:
        """Return the folder of the undisturbed sweep, and the seconds that it took.

        Raises:
            RuntimeError: it failed without any disturbance.
        """
        kind = kind.undisturbed
        if kind not in self._made:
            folder = self._folder / "-".join((kind.launcher, kind.sampler, kind.setting))
            folder.mkdir(parents=True)
            attempt = _Attempt(folder, folder / "sweep", secrets.token_hex(8), _first(kind, folder / "sweep"))
            code = attempt.wait()
            if code != 0:
                raise RuntimeError(f"an undisturbed sweep ended with {code}: {attempt.output.read_text()}")
            faulty = faults(folder / "sweep", kind.num_trials)
            if faulty:
                raise RuntimeError(f"an undisturbed sweep is not complete: {faulty[0]}; see {folder}")
            self._made[kind] = folder / "sweep", attempt.seconds
        return self._made[kind]


def run_round(
    round_: Round, references: References, folder: Path, has_memory_groups: bool, database: Server | None
) -> None:
    """Carry out a round in `folder`, which is removed if all is well."""
    reference, seconds = references.get(round_.kind)
    folder.mkdir()
    disk = folder / "disk"
    disk.mkdir()
    is_mounted = "full disk" in round_.disturbances
    if is_mounted:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", disk], check=True)
    mark = secrets.token_hex(8)
    memory = MemoryGroup() if has_memory_groups and "memory limit" in round_.disturbances else None
    sweep = disk / "sweep"
    try:
        _run(round_, sweep, mark, memory, database if round_.kind.storage == DATABASE else None, seconds)
        if not round_.faults:
            num_trials = round_.kind.num_trials
            round_.faults += faults(sweep, num_trials)
            if round_.has_same_draws:
                round_.faults += differences(reference, sweep)
    finally:
        send(find(mark), signal.SIGKILL)
        if memory is not None:
            memory.lift()
            memory.close()
        if is_mounted:
            if round_.faults:
                shutil.copytree(sweep, folder / "sweep", dirs_exist_ok=True)
            subprocess.run(["umount", "-l", disk], check=True)
        if round_.faults:
            round_.folder = folder
            (folder / "faults.txt").write_text("\n".join([str(round_), *round_.faults]) + "\n")
        else:
            shutil.rmtree(folder)


def _has_begun(sweep: Path) -> bool:
    """Whether the sweep has written its definition, from which it can be resumed."""
    return (sweep / "sweep.yaml").exists()


def _run(
    round_: Round, sweep: Path, mark: str, memory: MemoryGroup | None, database: Server | None, seconds: float
) -> None:
    generator = round_.generator
    waiting = list(round_.disturbances)
    retry_failed = False
    has_lost_files = False
    for index in range(_MOST_RESUMES + 1 + len(waiting)):
        resumes = _has_begun(sweep)
        round_.num_resumes += index > 0
        arguments = _resume(sweep, retry_failed) if resumes else _first(round_.kind, sweep, database)
        attempt = _Attempt(sweep.parent.parent, sweep, mark, arguments, memory, database, index)
        name = waiting.pop(0) if waiting else None
        if name is not None:
            _wait_for_moment(attempt.target, sweep, round_.kind, seconds, generator)
            if not attempt.target.is_over():
                round_.done.append(name)
                round_.events.append(f"{attempt.age:.1f} s: {DISTURBANCES[name](attempt.target, generator)}")
                has_lost_files |= attempt.target.has_lost_files
        code = attempt.wait()
        output = attempt.output.read_text(errors="replace")
        if code is None:
            round_.faults.append(f"attempt {index} hangs")
            return
        if any(_LOKYS not in traceback for traceback in output.split("Traceback")[1:]):
            round_.faults.append(f"attempt {index} shows a traceback")
            return
        has_no_folder = name == "removed working folder" and code == 2 and _NOWHERE in output
        is_torch_error = name == "removed working folder" and _TORCHS in output
        is_database_error = name == OF_THE_DATABASE and code == 2 and _NO_DATABASE in output
        has_no_room = name == "full disk" and code == 2 and bool(_NO_ROOM.search(output))
        if code not in _FAIR_CODES and not (is_torch_error or is_database_error or has_no_room or has_no_folder):
            round_.faults.append(f"attempt {index} ended with {code}: {output.strip().splitlines()[-1:]}")
            return
        left = attempt.surviving_roles()
        if left:
            round_.faults.append(f"attempt {index} left {', '.join(left)} behind")
            return
        if name == "damaged file" and code == -signal.SIGKILL and _has_begun(sweep):
            round_.events.append(damage(sweep, _running(sweep), generator))
        failed = _failures(sweep)
        unfair = [] if has_lost_files else failed
        if unfair:
            round_.faults.append(f"after attempt {index} a trial has failed: {unfair[0]}")
            return
        retry_failed = bool(failed)
        round_.has_failures |= retry_failed
        if code == 0 and not waiting:
            return
        if code == 0:
            waiting.clear()  # the sweep is done, so nothing is left to disturb
            return
    round_.faults.append(f"it is not done after {round_.num_resumes} resumes")


def _wait_for_moment(target: Target, sweep: Path, kind: Kind, seconds: float, generator: random.Random) -> None:
    """Wait until some trials have begun and some have ended or, occasionally, only for a moment."""
    if generator.random() < 0.2:
        target.wait(generator.uniform(0, seconds / 2))
        return

    def progress() -> int:
        return len(list(sweep.glob("[0-9]*"))) + len(list(sweep.glob("[0-9]*/summary.json")))

    # Stacked trials begin and end together, so half of the progress is reached when all have begun.
    most, longest_s = (1.0, 4.0) if kind.launcher == "stacked" else (1.7, 1.0)
    wanted = progress() + generator.uniform(0, max(most * kind.num_trials - progress(), 1))
    while progress() < wanted and not target.is_over():
        target.wait(0.05)
    target.wait(generator.uniform(0, longest_s))


class _Attempt:
    """A running command, in a working folder of its own, which may be removed."""

    def __init__(
        self,
        folder: Path,
        sweep: Path,
        mark: str,
        arguments: Sequence[str],
        memory: MemoryGroup | None = None,
        database: Server | None = None,
        index: int = 0,
    ) -> None:
        self._mark = mark
        self._start = time.monotonic()
        self.output = folder / f"output-{index}.txt"
        working_folder = Path(tempfile.mkdtemp(dir=folder, prefix="cwd-"))
        with self.output.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bnlab.train", "-m", *arguments],
                cwd=working_folder,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path))),
                    MARK: mark,
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: _begin(memory),
            )
        self.seconds = 0.0
        self.target = Target(mark, sweep, working_folder, memory, database, lambda: self._process.poll() is not None)

    @property
    def age(self) -> float:
        return time.monotonic() - self._start

    def wait(self) -> int | None:
        """Return the exit code; None if the command hangs."""
        try:
            self._process.wait(_HANGS_AFTER_S)
        except subprocess.TimeoutExpired:
            return None
        except BaseException:
            send(find(self._mark), signal.SIGKILL)
            raise
        self.seconds = self.age
        return self._process.returncode

    def surviving_roles(self) -> list[str]:
        """Return the roles of processes that outlive the command."""
        deadline = time.monotonic() + _ENDS_WITHIN_S
        while (left := find(self._mark)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return [process.role for process in left]


def _begin(memory: MemoryGroup | None) -> None:
    """In the new process, restore the signal handlers of a terminal, whatever (nohup, say) started this program."""
    for number in REQUESTS:
        signal.signal(number, signal.SIG_DFL)
    if memory is not None:
        memory.members.write_text("0")


def _first(kind: Kind, sweep: Path, database: Server | None = None) -> list[str]:
    file = f"sqlite:///{sweep.parent}/study.db"
    address = file if database is None else database.url
    storage = [] if kind.storage == "journal" else [f"search.storage={address}"]
    return [*kind.overrides(), f"hydra.sweep.dir={sweep}", *storage]


def _resume(sweep: Path, retry_failed: bool) -> list[str]:
    return [f"search.resume={sweep}", "search.trust=true", *(["search.retry_failed=true"] if retry_failed else [])]


def _failures(sweep: Path) -> list[str]:
    """Read the errors of the failed trials from trials.csv."""
    import csv

    with suppress(FileNotFoundError), (sweep / "trials.csv").open(newline="") as file:
        return [row["error"] for row in csv.DictReader(file) if row["status"] == Status.FAILED]
    return []


def _running(sweep: Path) -> list[str]:
    """Return the folders of the trials that the study does not know to have ended."""
    from bnlab.search.study.folder import SweepFolder
    from bnlab.search.study.storage import close, open_storage, study_id
    from bnlab.search.study.trials import folder_name

    folder = SweepFolder(sweep)
    definition = folder.read_definition()
    storage = open_storage(definition.storage_url(sweep), folder.journal)
    try:
        studies = storage.get_all_studies()
        ids = [study_id(storage, study.study_name) for study in studies]
        trials = [trial for of_study in ids for trial in storage.get_all_trials(of_study, deepcopy=False)]
    finally:
        close(storage)
    return [folder_name(trial) for trial in trials if trial.state.name == "RUNNING"]
