"""A user who may start no more processes or threads: a real limit of a real second user, for root is exempt."""

import csv
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import matplotlib
import pytest
from forked import wait_until

from bnlab.search.study.folder import UNFINISHED

TRAIN = ("-m", "bnlab.train")
SIMULATED = (str(Path(__file__).with_name("search_program.py")),)
# With which the files of root can still be read: Python itself may be among them.
CAPABILITIES = "-all,+dac_override,+dac_read_search"
SINGLE = ("hydra.run.dir=run", "trainer.max_epochs=1", "trainer.accelerator=cpu")
SWEEP = (
    "-m",
    "hydra.sweep.dir=sweep",
    "optimizer.lr=0.1,0.2,0.3,0.4",
    "trainer.max_epochs=1",
    "trainer.accelerator=cpu",
)
JOBLIB = (*SWEEP, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
STACKED = (*SWEEP, "hydra/launcher=stacked", "hydra.launcher.n_jobs=2")


_USERS = itertools.count()


class User:
    """Runs programs of bnlab in `folder`, with a limit to the processes that it may have."""

    def __init__(self, folder: Path) -> None:
        # whose only processes are those of this test, not those that the one before is still letting go
        self.number = 1_000_000 + 100 * os.getpid() + next(_USERS)
        self.becomes = [
            *("setpriv", f"--reuid={self.number}", f"--regid={self.number}", "--clear-groups"),
            *(f"--inh-caps={CAPABILITIES}", f"--ambient-caps={CAPABILITIES}"),
        ]
        self.started: list[subprocess.Popen[str]] = []
        self.folder = folder / "work"
        self.folder.mkdir()
        home = folder / "home"
        shutil.copytree(
            matplotlib.get_cachedir(), home, ignore=shutil.ignore_patterns("*lock")
        )  # fonts take seconds to find
        for path in (folder, self.folder, home, *home.iterdir()):
            os.chown(path, self.number, self.number)
        self.places = dict.fromkeys(("HOME", "MPLCONFIGDIR", "BNLAB_CACHE"), str(home))

    def start(self, limit: int, *command: str, **environment: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [*self.becomes, "prlimit", f"--nproc={limit}", sys.executable, *command],
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "2", "CC": "", **self.places, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def run(self, limit: int, *command: str, **environment: str) -> tuple[int, str, str]:
        process = self.start(limit, *command, **environment)
        stdout, stderr = process.communicate(timeout=120)
        return process.returncode, stdout, stderr

    def processes(self) -> list[int]:
        found = []
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                is_ours = f"\nUid:\t{self.number}\t" in status.read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if is_ours:
                found.append(int(status.parent.name))
        return found

    def limit(self, number: int) -> None:
        """From now on; the user's own processes may set each other's."""
        for process in self.processes():
            subprocess.run(
                [*self.becomes, "prlimit", f"--nproc={number}:", f"--pid={process}"], stderr=subprocess.DEVNULL
            )


@pytest.fixture
def user() -> Iterator[User]:
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("to be another user takes root and setpriv")
    folder = Path(tempfile.mkdtemp(prefix="bnlab-user-"))  # tmp_path lies below a folder of root's alone
    user = User(folder)
    if user.run(1, "-c", "")[0] != 0:
        pytest.skip("another user cannot run this Python")
    yield user
    for process in user.processes():
        os.kill(process, signal.SIGKILL)
    for started in user.started:
        started.communicate()
    shutil.rmtree(folder)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("limit", "arguments"),
    [(1, SINGLE), (3, SINGLE), (3, SWEEP), (3, STACKED), (12, STACKED), (3, JOBLIB), (12, JOBLIB)],
    ids=["single-1", "single-3", "basic-3", "stacked-3", "stacked-12", "joblib-3", "joblib-12"],
)
def test_what_needs_more_processes_than_there_may_be_is_refused_in_a_line(
    limit: int, arguments: tuple[str, ...], user: User
) -> None:
    code, stdout, stderr = user.run(limit, *TRAIN, *arguments)
    announced = stdout.startswith("Searching ") and stdout.count("\n") == 1  # before it is known what a launcher needs
    assert code == 2, stderr
    assert announced or not stdout
    needs = re.fullmatch(
        r".* needs (\d+) more processes and threads, but .* start only (\d+): raise that limit \(`ulimit -u` is (\d+)\)"
        r", end others of its processes, or choose a smaller (OMP_NUM_THREADS|hydra.launcher.n_jobs).\n",
        stderr,
    )
    assert needs is not None, stderr
    assert int(needs[2]) < int(needs[1])
    assert int(needs[3]) == limit
    assert [path.name for path in user.folder.iterdir()] == []


@pytest.mark.parametrize(
    ("limit", "arguments", "num_runs"),
    [
        (8, SINGLE, 1),
        pytest.param(20, STACKED, 4, marks=pytest.mark.slow),
        pytest.param(25, JOBLIB, 4, marks=pytest.mark.slow),
    ],
    ids=["single", "stacked", "joblib"],
)
def test_the_processes_that_are_asked_for_are_enough(
    limit: int, arguments: tuple[str, ...], num_runs: int, user: User
) -> None:
    code, stdout, stderr = user.run(limit, *TRAIN, *arguments)
    assert (code, stderr) == (0, ""), stdout + stderr
    assert len(list(user.folder.rglob("summary.json"))) == num_runs


def begun(user: User) -> bool:
    sweep = user.folder / "sweep"
    return any(any(sweep.glob(found)) for found in ("*/half.txt", "*/metrics.csv", f"{UNFINISHED}/*.ckpt"))


def lose_workers(user: User, sweep: "subprocess.Popen[str]") -> None:
    """At work, when no process can be started in their place."""
    wait_until(lambda: begun(user))
    user.limit(1)
    for number in user.processes():
        with suppress(ProcessLookupError, FileNotFoundError):
            command = Path(f"/proc/{number}/cmdline").read_text()
            if number != sweep.pid and "resource_tracker" not in command:
                os.kill(number, signal.SIGKILL)


def finish(sweep: "subprocess.Popen[str]", code: int = 0) -> str:
    stdout, stderr = sweep.communicate(timeout=120)
    assert sweep.returncode == code, stdout + stderr
    assert "Traceback" not in stdout + stderr
    return stdout


def check_results(user: User) -> None:
    statuses = [row["status"] for row in rows(user.folder / "sweep")]
    assert statuses.count("completed") == 4
    assert set(statuses) <= {"completed", "interrupted"}


def goes_on(user: User, sweep: "subprocess.Popen[str]") -> None:
    lose_workers(user, sweep)
    time.sleep(2)
    assert sweep.poll() is None
    user.limit(100)
    finish(sweep)
    check_results(user)


def test_a_joblib_sweep_goes_on_when_processes_can_be_started_again(user: User) -> None:
    goes_on(user, user.start(100, *SIMULATED, *JOBLIB, BNLAB_TEST_SECONDS="1"))


LONG_STACKS = ("trainer.max_epochs=120",)


@pytest.mark.slow
def test_a_stacked_sweep_goes_on_when_processes_can_be_started_again(user: User) -> None:
    goes_on(user, user.start(100, *TRAIN, *STACKED, *LONG_STACKS, BNLAB_WRITE_EVERY_S="0.05"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "arguments"), [(SIMULATED, JOBLIB), (TRAIN, (*STACKED, *LONG_STACKS))], ids=["joblib", "stacked"]
)
def test_a_sweep_stops_where_no_process_can_be_started_and_loses_nothing(
    program: tuple[str, ...], arguments: tuple[str, ...], user: User
) -> None:
    sweep = user.start(100, *program, *arguments, BNLAB_TEST_SECONDS="1", BNLAB_WRITE_EVERY_S="0.05")
    lose_workers(user, sweep)
    stdout = finish(sweep, code=1)
    assert "Stopped for a reason outside the trials: " in stdout
    assert "trials failed" not in stdout
    finish(user.start(100, *program, "-m", "search.resume=sweep"))
    check_results(user)
