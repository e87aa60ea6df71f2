"""The process that workers are forked from: begun before it is needed, and gone when it is not."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from stacked_oracle import configs_of

from bnlab.stacked.grouping import data_key
from bnlab.stacked.job import Job
from bnlab.stacked.processes import fork_server
from bnlab.stacked.processes.chunks import Chunks
from bnlab.stacked.processes.deaths import LostWorkersError
from bnlab.stacked.processes.fork_server import ForkServer
from bnlab.stacked.processes.pool import Pool

STACKED = ("-m", "hydra/launcher=stacked")


def config_of(*overrides: str) -> dict:
    config = OmegaConf.to_container(configs_of([*overrides], [{}])[0], resolve=True)
    assert isinstance(config, dict)
    return config


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[ForkServer]:
    """Every fork server that this process starts."""
    all_of_them: list[ForkServer] = []
    start = ForkServer.__init__

    def remember(self: ForkServer) -> None:
        start(self)
        all_of_them.append(self)

    monkeypatch.setattr(ForkServer, "__init__", remember)
    return all_of_them


def test_it_begins_though_its_folder_is_removed_while_it_imports_torch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    working = tmp_path / "working"
    working.mkdir()
    monkeypatch.chdir(working)
    ours = ForkServer()
    monkeypatch.undo()
    maps = Path(f"/proc/{ours._process.pid}/maps")
    while "libtorch_python" not in maps.read_text():
        time.sleep(0.001)
    working.rmdir()
    config = config_of()
    ours.order(data_key(config), config)
    taken = ours.take()
    assert capfd.readouterr().err == ""
    assert taken is not None
    taken[0].close()
    ours.close()


def test_it_ends_without_a_word_when_its_parent_was_killed_before_it_took_a_worker(
    capfd: pytest.CaptureFixture[str],
) -> None:
    config = config_of()
    ours = ForkServer()
    ours.order(data_key(config), config)
    select.select([ours], [], [])
    ours._socket.close()  # as the kernel does for a killed process; what it had not read resets the connection
    assert ours._process.wait(10) == 0
    assert capfd.readouterr().err == ""


def test_a_worker_says_what_it_is_and_outlives_no_one() -> None:
    config = config_of()
    ours = ForkServer()
    ours.order(data_key(config), config)
    taken = ours.take()
    assert taken is not None
    connection, pid, data = taken
    assert data == data_key(config)
    assert Path(f"/proc/{pid}").exists()
    connection.close()
    ours.close()
    assert ours.exit_code is not None
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}").exists()


def test_a_stacked_sweep_takes_the_fork_server_that_began_with_the_command(train, started, tmp_path: Path) -> None:
    outcome = train(
        *STACKED,
        *(f"hydra.sweep.dir={tmp_path}/sweep", "hydra.launcher.n_jobs=1", "trainer.max_epochs=1", "seed=0,1"),
        "trainer.accelerator=cpu",
    )
    assert outcome.exit_code == 0, outcome.stderr
    assert len(started) == 1
    assert fork_server._early.get() is None


@pytest.mark.parametrize("arguments", [(*STACKED, "optimizer=nonsense"), (*STACKED, "--help")], ids=" ".join)
def test_a_fork_server_that_nobody_asks_for_ends_with_the_command(train, started, arguments) -> None:
    train(*arguments)
    assert [each.exit_code for each in started] == [-signal.SIGKILL]


@pytest.mark.parametrize(
    "arguments", [("-m", "seed=0"), ("hydra/launcher=stacked",), ("-mx", "hydra/launcher=stacked"), ()], ids=" ".join
)
def test_no_fork_server_begins_where_nothing_is_stacked(arguments, started) -> None:
    with fork_server.early_fork_server(["bnlab.train", *arguments]):
        assert fork_server._early.get() is None
        assert started == []


def test_a_mistake_on_the_command_line_is_one_line_and_leaves_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bnlab.train", *STACKED, "optimizer.lr=fast"]
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)  # waits for all pipes
    assert outcome.returncode == 2
    assert outcome.stderr == "`optimizer.lr` must be a finite number >= 0, but got 'fast'.\n"


def test_the_command_can_begin_before_hydra_is_imported() -> None:
    code = "import sys, bnlab.train; sys.exit('hydra' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def jobs_in(folder: Path, number: int = 6) -> Chunks:
    """Two stacks, long enough to be killed in the middle."""
    configs = [
        config_of("trainer.max_epochs=30", f"seed={seed}", f"optimizer.lr=0.0{seed + 1}") for seed in range(number)
    ]
    plain = [Job(n, config, folder / str(n)) for n, config in enumerate(configs)]
    return Chunks(iter(plain), lambda config: 3)


def run(folder: Path, report: Callable[[Pool], None], num_workers: int = 2) -> dict[int, dict]:
    pool = Pool(num_workers)
    summaries: dict[int, dict] = {}
    try:
        pool.run(jobs_in(folder), summaries.__setitem__, lambda _: report(pool))
    finally:
        pool.close()
    return summaries


def results_of(folder: Path, summaries: dict[int, dict]) -> list:
    """All that is not a time."""
    times = {"seconds", "samples_per_second"}
    return [
        (
            {key: value for key, value in summary.items() if key not in times},
            [line.rpartition(",")[0] for line in (folder / str(number) / "metrics.csv").read_text().splitlines()],
            {
                key: value.numpy().tobytes()
                for key, value in torch.load(folder / str(number) / "checkpoints/best.ckpt")["state_dict"].items()
            },
        )
        for number, summary in sorted(summaries.items())
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list:
    folder = tmp_path_factory.mktemp("undisturbed")
    return results_of(folder, run(folder, lambda pool: None))


def is_training(pool: Pool) -> bool:
    return any(worker.chunk is not None and worker.has_begun for worker in pool._workers)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.1)


def test_a_fork_server_that_is_killed_at_once_is_replaced(started, undisturbed, tmp_path: Path) -> None:
    def report(pool: Pool) -> None:
        if len(started) == 1 and started[0].exit_code is None:
            kill(started[0]._process.pid)

    summaries = run(tmp_path, report)
    assert len(started) == 2
    assert results_of(tmp_path, summaries) == undisturbed


def test_a_fork_server_and_workers_that_are_killed_at_work_lose_nothing(started, undisturbed, tmp_path: Path) -> None:
    killed: list[int] = []

    def report(pool: Pool) -> None:
        if not killed and is_training(pool):
            kill(started[0]._process.pid)
            killed.extend(worker.pid for worker in pool._workers)
            for pid in killed:
                kill(pid)

    summaries = run(tmp_path, report)
    assert killed
    assert len(started) == 2
    assert results_of(tmp_path, summaries) == undisturbed


def test_work_given_to_a_worker_that_was_killed_while_it_was_idle_is_done_by_another(tmp_path: Path) -> None:
    configs = [config_of("trainer.max_epochs=1", f"seed={seed}") for seed in range(2)]
    jobs = [Job(number, config, tmp_path / str(number)) for number, config in enumerate(configs)]
    pool = Pool(1)
    summaries: dict[int, dict] = {}

    def ended(number: int, summary: dict) -> None:
        summaries[number] = summary
        if number == 0:
            assert pool._workers[0].connection.poll(60)  # it has said that it is done
            kill(pool._workers[0].pid)

    try:
        pool.run(Chunks(iter(jobs), lambda config: 1), ended, lambda report: None)
    finally:
        pool.close()
    assert [summary["status"] for summary in summaries.values()] == ["completed", "completed"]


def test_a_worker_that_ends_by_itself_is_told_from_one_that_is_killed() -> None:
    config = config_of()
    ours = ForkServer()
    codes = []
    for number in (signal.SIGKILL, signal.SIGSEGV):
        ours.order(data_key(config), config)
        taken = ours.take()
        assert taken is not None
        connection, pid, _ = taken
        os.kill(pid, number)
        codes.append(connection.recv())
        with pytest.raises(EOFError):
            connection.recv()
        connection.close()
    ours.close()
    assert codes == [("died", -signal.SIGKILL), ("died", -signal.SIGSEGV)]


def test_a_pool_whose_processes_are_all_killed_gives_up(started, tmp_path: Path) -> None:
    def report(pool: Pool) -> None:
        if started[-1].exit_code is None:
            kill(started[-1]._process.pid)

    with pytest.raises(LostWorkersError, match="8 processes that workers are forked from in a row"):
        run(tmp_path, report)
    assert len(started) == 8
