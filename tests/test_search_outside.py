"""What ends a trial for reasons that are not its own: it is tried again, and a row of such ends stops the sweep."""

import errno
import os
import signal
import threading
from pathlib import Path

import pytest
import sqlalchemy.exc
from hydra.core.hydra_config import HydraConfig
from optuna.exceptions import StorageInternalError
from real_disks import fill, tmpfs
from simulated_sweep import LR, Left, smooth

from bnlab.errors import UserError, user_errors
from bnlab.process.outside import is_outside


def raised(error, cause=None):
    try:
        raise error from cause
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "full"), True),
        (OSError(errno.EDQUOT, "quota"), True),
        (OSError(errno.EROFS, "read-only"), True),
        (OSError(errno.EIO, "broken"), True),
        (FileNotFoundError(errno.ENOENT, "missing"), False),
        (PermissionError(errno.EACCES, "closed"), False),
        (OSError("no number"), False),
        (ValueError("full"), False),
        (MemoryError(), False),
        (SystemExit(1), False),
        (raised(ValueError("wrapped"), OSError(errno.ENOSPC, "full")), True),
        (raised(UserError("wrapped"), raised(ValueError(), OSError(errno.EIO, "broken"))), True),
        (StorageInternalError("lost"), True),
        (sqlalchemy.exc.OperationalError("SELECT 1", {}, Exception("lost")), True),
        (sqlalchemy.exc.IntegrityError("SELECT 1", {}, Exception("twice")), False),
        (None, False),
    ],
    ids=ascii,
)
def test_reasons_from_outside_are_known_from_others(error, expected):
    assert is_outside(error) is expected


def test_a_reason_is_seen_through_what_wraps_it():
    with pytest.raises(UserError) as caught, user_errors("`trainer`: "):
        raise OSError(errno.ENOSPC, "full")
    assert is_outside(caught.value)


def full_disk(config):
    raise OSError(errno.ENOSPC, "No space left on device", "x")


def number_of(config):
    return int(Path(HydraConfig.get().runtime.output_dir).name)


def test_a_trial_that_is_lost_is_tried_again_and_counts_as_none_that_failed(sweep):
    def task(config):
        return full_disk(config) if number_of(config) in (1, 4) else smooth(config)

    outcome, left = sweep("search=random", "search.num_trials=4", LR, task=task)
    assert outcome.exit_code == 0, outcome.stdout + outcome.stderr
    assert [row["status"] for row in left.rows] == [
        "completed",
        "interrupted",
        *["completed"] * 2,
        "interrupted",
        "completed",
    ]
    assert len({left.rows[number]["optimizer.lr"] for number in (1, 4, 5)}) == 1
    assert "trial 1 was lost: OSError: [Errno 28] No space left on device" in outcome.stdout
    assert "Traceback" not in outcome.stdout + outcome.stderr


def test_a_trial_that_is_lost_each_time_waits_for_the_sweep_to_go_on(sweep, train, monkeypatch):
    def task(config):
        return full_disk(config) if config.optimizer.lr == 0.02 else smooth(config)

    outcome, left = sweep("optimizer.lr=0.01,0.02,0.03,0.04", task=task)
    assert outcome.exit_code == 1
    assert [row["status"] for row in left.rows].count("interrupted") == 3
    assert "To be retried: 1 trial" in outcome.stdout
    assert outcome.stdout.splitlines()[-1] == "python -m bnlab.train -m search.resume=sweep"
    monkeypatch.setattr("bnlab.train.task", smooth)
    assert train("-m", "search.resume=sweep").exit_code == 0
    assert sorted(row["optimizer.lr"] for row in left.rows if row["status"] == "completed") == [
        "0.01",
        "0.02",
        "0.03",
        "0.04",
    ]


def test_a_row_of_lost_trials_stops_the_sweep(sweep, train, monkeypatch):
    tried = []

    def task(config):
        tried.append(config.optimizer.lr)
        threading.Event().wait(0.3)  # time to hear of the one before
        full_disk(config)

    outcome, left = sweep("search=random", "search.num_trials=20", LR, task=task)
    assert outcome.exit_code == 1
    assert 3 <= len(tried) < 8
    assert "Stopped for a reason outside the trials: OSError: [Errno 28]" in outcome.stdout
    assert outcome.stdout.splitlines()[-1] == "python -m bnlab.train -m search.resume=sweep"
    assert {row["status"] for row in left.rows} == {"interrupted"}
    monkeypatch.setattr("bnlab.train.task", smooth)
    assert train("-m", "search.resume=sweep").exit_code == 0
    assert [row["status"] for row in left.rows].count("completed") == 20


@pytest.fixture
def disk(tmp_path):
    with tmpfs(tmp_path / "disk", 1 << 20) as folder:
        yield folder


def test_a_sweep_waits_for_a_full_disk(sweep, disk):
    """Its second trial fills it; a second later there is room again."""
    _, whole = sweep("search=random", "search.num_trials=8", LR, folder="whole")
    timers = []

    def task(config):
        if number_of(config) == 1:
            ballast = fill(disk)
            timers.append(threading.Timer(1.0, ballast.unlink))
            timers[0].start()
        return smooth(config)

    outcome, left = sweep("search=random", "search.num_trials=8", LR, task=task, folder=f"{disk}/s")
    assert outcome.exit_code == 0, outcome.stdout + outcome.stderr
    assert "Traceback" not in outcome.stdout + outcome.stderr
    completed = [row for row in left.rows if row["status"] == "completed"]
    values = [(row["optimizer.lr"], row["val_accuracy"]) for row in whole.rows]
    assert sorted((row["optimizer.lr"], row["val_accuracy"]) for row in completed) == sorted(values)
    assert len(left.rows) <= 10


def test_a_sweep_stops_where_a_disk_stays_full_and_goes_on_later(sweep, train, disk, monkeypatch):
    places = ("search.study.own_study", "search.sweeps.recorded_task", "search.sweeps.batches", "launchers.worker")
    for place in places:
        monkeypatch.setattr(f"bnlab.{place}.PATIENCE_S", 0.3)
    ballasts = []

    def task(config):
        if number_of(config) == 1:
            ballasts.append(fill(disk))
        return smooth(config)

    outcome, left = sweep("search=random", "search.num_trials=8", LR, task=task, folder=f"{disk}/s")
    assert outcome.exit_code == 1, outcome.stdout + outcome.stderr
    assert "No space left on device" in outcome.stdout
    assert "Traceback" not in outcome.stdout + outcome.stderr
    assert outcome.stdout.splitlines()[-1].endswith("search.resume=disk/s")
    ballasts[0].unlink()
    monkeypatch.setattr("bnlab.train.task", smooth)
    outcome = train("-m", f"search.resume={disk}/s")
    assert outcome.exit_code == 0, outcome.stdout + outcome.stderr
    assert [row["status"] for row in left.rows].count("completed") == 8
    assert "failed" not in [row["status"] for row in left.rows]


def test_a_sweep_goes_on_whose_working_folder_is_removed(train, monkeypatch, tmp_path):
    """Hydra asks for the current folder before and after each job."""
    working = tmp_path / "working"
    working.mkdir()
    monkeypatch.chdir(working)

    def task(config):
        if number_of(config) == 1:
            working.rmdir()
        return smooth(config)

    monkeypatch.setattr("bnlab.train.task", task)
    outcome = train("-m", "optimizer.lr=0.01,0.02,0.03,0.04", f"hydra.sweep.dir={tmp_path}/sweep")
    assert outcome.exit_code == 0, outcome.stdout + outcome.stderr
    rows = Left(tmp_path / "sweep").rows
    assert [row["status"] for row in rows] == ["completed"] * 4
    assert [row["error"] for row in rows] == [""] * 4
    assert "Traceback" not in outcome.stdout + outcome.stderr


def interrupted_amid_a_clean_up(config):
    """As a library's context manager does that is left half entered."""
    if not Path("asked").exists():
        Path("asked").touch()
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            None._flags  # noqa: B018
    return smooth(config)


def test_a_trial_that_is_interrupted_where_a_clean_up_fails_has_not_failed(sweep, train) -> None:
    outcome, left = sweep("optimizer.lr=0.01,0.1", task=interrupted_amid_a_clean_up)
    assert outcome.exit_code == 130
    assert "failed" not in {row["status"] for row in left.rows}
    outcome = train("-m", "search.resume=sweep")
    assert outcome.exit_code == 0, outcome.stderr
    assert [row["status"] for row in left.rows if row["status"] != "interrupted"] == ["completed", "completed"]
