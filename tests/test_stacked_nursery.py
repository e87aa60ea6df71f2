"""The process that workers are forked from: begun before it is needed, and gone when it is not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from stacked_oracle import configs_of

from bnlab.stacked import nursery
from bnlab.stacked.chunks import Chunks, PlainJob, data_key
from bnlab.stacked.pool import Pool, Report

STACKED = ("-m", "hydra/launcher=stacked")


def config_of(*overrides: str) -> dict:
    config = OmegaConf.to_container(configs_of([*overrides], [{}])[0], resolve=True)
    assert isinstance(config, dict)
    return config


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[nursery.Nursery]:
    """Every nursery that this process starts."""
    all_of_them: list[nursery.Nursery] = []
    start = nursery.Nursery.__init__

    def remember(self: nursery.Nursery) -> None:
        start(self)
        all_of_them.append(self)

    monkeypatch.setattr(nursery.Nursery, "__init__", remember)
    return all_of_them


def test_a_worker_says_what_it_is_and_outlives_no_one() -> None:
    config = config_of()
    ours = nursery.Nursery()
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


def test_a_stacked_sweep_takes_the_nursery_that_began_with_the_command(train, started, tmp_path: Path) -> None:
    outcome = train(
        *STACKED,
        *(f"hydra.sweep.dir={tmp_path}/sweep", "hydra.launcher.n_jobs=1", "trainer.max_epochs=1", "seed=0,1"),
        "trainer.accelerator=cpu",
    )
    assert outcome.exit_code == 0, outcome.stderr
    assert len(started) == 1
    assert nursery._begun == []


@pytest.mark.parametrize("arguments", [(*STACKED, "optimizer=nonsense"), (*STACKED, "--help")], ids=" ".join)
def test_a_nursery_that_nobody_asks_for_ends_with_the_command(train, started, arguments) -> None:
    train(*arguments)
    assert [each.exit_code for each in started] == [-signal.SIGKILL]


@pytest.mark.parametrize("arguments", [("-m", "seed=0"), ("hydra/launcher=stacked",), ()], ids=" ".join)
def test_no_nursery_begins_where_nothing_is_stacked(arguments, started) -> None:
    with nursery.begun_early(["bnlab.train", *arguments]):
        assert nursery._begun == started == []


def test_a_mistake_on_the_command_line_is_one_line_and_leaves_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bnlab.train", *STACKED, "optimizer.lr=fast"]
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)  # waits for all pipes
    assert outcome.returncode == 2
    assert outcome.stderr == "`optimizer.lr` must be a finite number >= 0, but got 'fast'.\n"


def test_the_command_can_begin_before_hydra_is_imported() -> None:
    code = "import sys, bnlab.train; sys.exit('hydra' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_nursery_that_dies_is_said_to_have_died_and_replaced(started, tmp_path: Path) -> None:
    def jobs() -> Chunks:
        config = config_of("trainer.max_epochs=1")
        return Chunks(iter([PlainJob(0, config, str(tmp_path / "0"), ())]), lambda config: 8)

    def kill(report: Report) -> None:
        os.kill(started[0]._process.pid, signal.SIGKILL)
        time.sleep(0.1)

    pool = Pool(1)
    summaries: dict[int, dict] = {}
    try:
        with pytest.raises(RuntimeError, match="forked from ended with exit code -9"):
            pool.run(jobs(), summaries.__setitem__, kill)
        pool.run(jobs(), summaries.__setitem__, lambda report: None)
    finally:
        pool.close()
    assert len(started) == 2
    assert summaries[0]["status"] == "completed"
