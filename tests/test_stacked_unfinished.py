"""What is killed in the middle goes on from its last state: a worker, a sweep, a call from Python; and a full disk."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from real_disks import fill, tmpfs
from stacked_oracle import configs_of
from test_stacked_state import left_in

from bnlab.search.study.folder import UNFINISHED
from bnlab.stacked import pace, training
from bnlab.stacked import train as train_stacked
from bnlab.stacked.job import Job
from bnlab.stacked.processes.chunks import Chunks
from bnlab.stacked.processes.pool import Pool
from bnlab.stacked.processes.worker import train_chunk

LONG = ["trainer.max_epochs=200", "data.batch_size=256", "optimizer=adam", "scheduler=constant"]

LONGER = ["trainer.max_epochs=600", *LONG[1:]]  # for a process that a test can watch on a busy machine

QUIETLY = (lambda *_: None, lambda curves: [b""] * len(curves))


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are started write as often as their share of the time lets them."""
    monkeypatch.setenv("BNLAB_WRITE_EVERY_S", "0.05")


def went_on_after(folder: Path) -> int:
    """The epoch, of which train.log says once that the training went on from there; 0 where it began anew."""
    log = (folder / "train.log").read_text()
    num_epochs = json.loads((folder / "summary.json").read_text())["epochs"]
    assert [log.count(f" epoch {each}: train_") for each in range(1, num_epochs + 1)] == [1] * num_epochs
    lines = [line for line in log.splitlines() if ": continues after epoch " in line]
    return int(lines[-1].rpartition(" ")[2]) if lines else 0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list, Path]:
    """Three networks of one stack, trained in this process."""
    configs = configs_of(LONG, [{"seed": seed, "optimizer.lr": 0.003 * (seed + 1)} for seed in range(3)])
    folder = tmp_path_factory.mktemp("undisturbed")
    list(train_chunk([Job(n, config, folder / str(n)) for n, config in enumerate(configs)], *QUIETLY))
    return configs, folder


def test_what_a_killed_worker_trained_goes_on_in_others(hasty, undisturbed, tmp_path: Path) -> None:
    """The first is killed when all have a state, its stack goes on in halves."""
    configs, expected = undisturbed
    plain = [OmegaConf.to_container(config, resolve=True) for config in configs]
    jobs = [Job(n, config, tmp_path / str(n)) for n, config in enumerate(plain)]
    pool = Pool(1)
    killed: list[int] = []

    def kill(report) -> None:
        if not killed and len(list(tmp_path.glob(f"{UNFINISHED}/*"))) == 3 and min(report.epochs, default=0) > 20:
            killed.append(pool._workers[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    summaries: dict[int, dict] = {}
    try:
        pool.run(Chunks(iter(jobs), lambda config: 3), summaries.__setitem__, kill)
    finally:
        pool.close()
    assert len(killed) == 1
    for number in range(3):
        assert left_in(tmp_path / str(number))[1:] == left_in(expected / str(number))[1:]
        assert went_on_after(tmp_path / str(number)) > 1
    assert not (tmp_path / UNFINISHED).exists()


def kill_when(process: subprocess.Popen, states: Path, number: int) -> None:
    """Kill it when so many networks have a state, and are farther since."""
    deadline = time.monotonic() + 60
    while len(list(states.glob("*.ckpt"))) < number and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.2)
    process.kill()
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("pruner", ["none", "successive_halving"])
def test_a_sweep_that_is_killed_goes_on_within_its_trials(pruner, hasty, train, tmp_path: Path) -> None:
    arguments = [
        *("-m", "hydra/launcher=stacked", "hydra.launcher.n_jobs=1", f"search/pruner={pruner}", *LONGER),
        *("trainer.accelerator=cpu", "model.hidden=[20,20]", "optimizer.lr=1e-5,0.003,0.01,0.02,1e-4"),
    ]
    folders = {name: tmp_path / name for name in ("undisturbed", "killed")}
    process = subprocess.Popen(
        [sys.executable, "-m", "bnlab.train", *arguments, f"hydra.sweep.dir={folders['killed']}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    kill_when(process, folders["killed"] / UNFINISHED, 5)
    ended = {summary.parent.name for summary in folders["killed"].glob("*/summary.json")}
    assert len(ended) < 5  # a busy machine has time for some of them
    assert train(*arguments, f"hydra.sweep.dir={folders['undisturbed']}").exit_code == 0
    outcome = train("-m", f"search.resume={folders['killed']}")
    assert outcome.exit_code == 0, outcome.stdout + outcome.stderr
    left = {
        name: {(run.parent / "overrides.yaml").read_text(): run.parent for run in folder.glob("*/summary.json")}
        for name, folder in folders.items()
    }
    assert len(left["killed"]) == 5
    assert left["killed"].keys() == left["undisturbed"].keys()
    for overrides, run in left["killed"].items():
        (of_run, *files), (of_expected, *expected) = left_in(run), left_in(left["undisturbed"][overrides])
        assert files == expected
        assert {**of_run, "sweep": 0} == {**of_expected, "sweep": 0}
    statuses = [left_in(run)[0]["status"] for run in left["killed"].values()]
    assert ("pruned" in statuses) == (pruner != "none")
    completed = [run for run in left["killed"].values() if left_in(run)[0]["status"] == "completed"]
    assert all(went_on_after(run) > 1 for run in completed if run.name not in ended)
    assert not (folders["killed"] / UNFINISHED).exists()


PROGRAM = """
import sys
from omegaconf import OmegaConf
from bnlab.stacked import train
train([OmegaConf.load(path) for path in sys.argv[2:]], sys.argv[1], exist="skip", num_workers=1)
"""


@pytest.mark.slow
def test_a_call_that_is_killed_goes_on_where_complete_runs_are_kept(hasty, undisturbed, tmp_path: Path) -> None:
    configs, expected = undisturbed
    folder = tmp_path / "killed"
    paths = [tmp_path / f"{number}.yaml" for number in range(3)]
    for config, path in zip(configs, paths, strict=True):
        OmegaConf.save(config, path)
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, folder, *paths], stdout=subprocess.PIPE)
    kill_when(process, folder / UNFINISHED, 3)
    ended = {number for number in range(3) if (folder / str(number) / "summary.json").exists()}
    assert len(ended) < 3  # a busy machine has time for some of them
    train_stacked(configs, folder, exist="skip", num_workers=1)
    for number in range(3):
        assert left_in(folder / str(number))[1:] == left_in(expected / str(number))[1:]
        assert number in ended or went_on_after(folder / str(number)) > 1
    assert sorted(path.name for path in folder.iterdir()) == ["0", "1", "2"]


@pytest.mark.slow
@pytest.mark.parametrize("exist", ["error", "overwrite"])
def test_who_wants_a_new_run_gets_one(exist, undisturbed, tmp_path: Path) -> None:
    configs = [config.copy() for config in undisturbed[0][:1]]
    configs[0].trainer.max_epochs = 3
    states = tmp_path / UNFINISHED
    states.mkdir()
    (states / "of another call.ckpt").touch()
    train_stacked(configs, tmp_path, exist=exist, num_workers=1)
    assert went_on_after(tmp_path / "0") == 0
    assert not states.exists()


def test_a_full_disk_ends_no_training_and_no_state(undisturbed, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(pace, "EVERY_S", 0.0)
    monkeypatch.setattr(pace, "SHARE", float("inf"))
    monkeypatch.setattr(training, "LOOK_EVERY_S", 0.0)
    configs = [config.copy() for config in undisturbed[0][:2]]
    for config in configs:
        config.trainer.max_epochs = 9
    with tmpfs(tmp_path / "disk", "2m") as disk:
        ballast = disk / "ballast"
        before: dict[Path, bytes] = {}

        def look(epoch: int, num_trials: int) -> None:
            if epoch == 3 and not before:
                before.update((path, path.read_bytes()) for path in (disk / UNFINISHED).iterdir())
                assert fill(disk) == ballast
            if epoch == 7 and ballast.exists():
                assert before == {path: path.read_bytes() for path in (disk / UNFINISHED).iterdir()}
                ballast.unlink()

        list(train_chunk([Job(n, config, disk / str(n)) for n, config in enumerate(configs)], look, QUIETLY[1]))
        assert len(before) == 2
        for number in range(2):
            log = (disk / str(number) / "train.log").read_text()
            assert log.count("cannot be saved") == 1
            assert "epoch 3 cannot be saved (" in log
            assert json.loads((disk / str(number) / "summary.json").read_text())["status"] == "completed"
            rows = left_in(disk / str(number))[1]
            assert rows == left_in(undisturbed[1] / str(number))[1][: len(rows)]


def test_the_pauses_bound_the_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a writing takes, the pause after it takes 1 / SHARE times as long, and EVERY_S at least."""
    monkeypatch.setattr(pace, "EVERY_S", 10.0)
    monkeypatch.setattr(pace, "SHARE", 0.04)
    monkeypatch.setattr(pace, "BYTES_PER_S", 100e6)
    for num_bytes, first in ((10**6, 110.0), (200 * 10**6, 150.0)):  # 10 ms are little, 2 s are 0.04 of 50
        rule = pace.Pace(num_bytes, now=100.0)
        assert not rule.is_due(first - 0.01)
        assert rule.is_due(first)
    rule.wrote(begun=200.0, ended=200.1)
    assert not rule.is_due(210.0)
    assert rule.is_due(210.1)
    rule.wrote(begun=300.0, ended=308.0)
    assert not rule.is_due(507.9)
    assert rule.is_due(508.0)
