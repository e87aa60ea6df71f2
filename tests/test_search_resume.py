"""A sweep that is interrupted, and goes on."""

import os
import signal
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from simulated_sweep import LR, Left, smooth

from bnlab.search.study.recovery import MOST_ENDS


def test_interrupting_a_sweep_keeps_its_results_and_says_how_to_go_on(sweep):
    def task(config):
        if HydraConfig.get().runtime.output_dir.endswith("/2"):
            signal.raise_signal(signal.SIGINT)
        return smooth(config)

    outcome, left = sweep("search=random", "search.num_trials=5", LR, task=task)
    assert outcome.exit_code == 130
    assert [row["status"] for row in left.rows] == ["completed", "completed", "interrupted"]
    command = outcome.stdout.strip().splitlines()[-1]
    assert command == "python -m bnlab.train -m search.resume=sweep"


def test_resuming_finishes_an_interrupted_sweep_with_the_draws_of_a_whole_one(sweep, train, monkeypatch):
    ran = []

    def interrupts(config):
        if HydraConfig.get().runtime.output_dir.endswith("/2"):
            signal.raise_signal(signal.SIGTERM)
        ran.append(config.optimizer.lr)
        return smooth(config)

    arguments = ["search=random", "search.num_trials=5", LR, "search.batch_size=2"]
    _, whole = sweep(*arguments, folder="whole")
    _, left = sweep(*arguments, task=interrupts)
    assert len(ran) == 2
    monkeypatch.setattr("bnlab.train.task", lambda config: ran.append(config.optimizer.lr) or smooth(config))
    outcome = train("-m", "search.resume=sweep")
    assert outcome.exit_code == 0
    finished = [row for row in left.rows if row["status"] == "completed"]
    assert sorted(row["optimizer.lr"] for row in finished) == sorted(row["optimizer.lr"] for row in whole.rows)
    assert len(ran) == len(set(ran)) == 5  # none twice
    assert [row["status"] for row in left.rows] == [*["completed"] * 2, "interrupted", *["completed"] * 3]
    assert left.best.objective == whole.best.objective
    numbers = [int(row["number"]) for row in left.rows]
    assert numbers == list(range(len(numbers)))


def test_what_ends_the_process_again_and_again_fails_at_last(sweep, train, monkeypatch):
    """A job of the basic launcher runs in the process of the sweep, which `os._exit` ends without a word."""
    ran = []

    def task(config):
        ran.append(config.optimizer.lr)
        if config.optimizer.lr == 0.02:
            os._exit(7)
        return smooth(config)

    def ends_with(*arguments, **named):
        process = os.fork()
        if process == 0:
            try:
                run, *rest = arguments
                run(*rest, **named)
            finally:
                os._exit(99)
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

    assert ends_with(sweep, "optimizer.lr=0.01,0.02,0.03", task=task) == 7
    monkeypatch.setattr("bnlab.train.task", task)
    for _ in range(MOST_ENDS - 1):  # a process that is killed so often within one trial is not the trial's fault
        assert ends_with(train, "-m", "search.resume=sweep") == 7
    outcome = train("-m", "search.resume=sweep")
    assert outcome.exit_code == 1
    left = Left(Path("sweep"))
    tries = ["interrupted"] * (MOST_ENDS - 2)
    assert [row["status"] for row in left.rows] == ["completed", "interrupted", "completed", *tries, "failed"]
    assert left.rows[-1]["error"] == "its process was killed or ended, 5 times"
    assert ran == []  # nothing is left to be done in this process


def test_resuming_a_finished_sweep_runs_nothing_and_shows_its_result(sweep, train, monkeypatch):
    first, left = sweep("search=random", "search.num_trials=3", LR)
    before = left.rows
    monkeypatch.setattr("bnlab.train.task", lambda config: pytest.fail("a job ran"))
    outcome = train("-m", "search.resume=sweep")
    assert outcome.exit_code == 0
    assert left.rows == before
    assert outcome.stdout.splitlines()[-1] == first.stdout.splitlines()[-1]


def test_resuming_with_more_trials_extends_the_sweep(sweep, train):
    _, left = sweep("search=random", "search.num_trials=3", LR)
    before = left.rows
    assert train("-m", "search.resume=sweep", "search.num_trials=7").exit_code == 0
    assert left.rows[:3] == before
    assert len({row["optimizer.lr"] for row in left.rows}) == 7
    assert train("-m", "search.resume=sweep").exit_code == 0
    assert len(left.rows) == 7  # the new number is kept


def test_what_failed_is_tried_again_on_request(sweep, train, monkeypatch):
    def task(config):
        if config.optimizer.lr == 0.02:
            raise ValueError("on request")
        return smooth(config)

    outcome, left = sweep("optimizer.lr=0.01,0.02,0.03", task=task)
    assert outcome.exit_code == 1
    assert train("-m", "search.resume=sweep").exit_code == 1
    assert len(left.rows) == 3
    monkeypatch.setattr("bnlab.train.task", smooth)
    outcome = train("-m", "search.resume=sweep", "search.retry_failed=true")
    assert outcome.exit_code == 0, outcome.stdout + outcome.stderr
    assert [row["status"] for row in left.rows] == ["completed", "interrupted", "completed", "completed"]
    assert left.rows[3]["optimizer.lr"] == "0.02"
    assert left.rows[1]["error"] == "ValueError: on request"
    assert "retry_failed" not in (left.folder / "sweep.yaml").read_text()
    outcome = train("-m", "search.retry_failed=true", "optimizer.lr=1,2", "hydra.sweep.dir=new")
    assert outcome.exit_code == 2
    assert outcome.stderr.startswith("`search.retry_failed` needs search.resume")


def test_resuming_refuses_other_settings(sweep, train):
    sweep("search=random", "search.num_trials=2", LR)
    outcome = train("-m", "search.resume=sweep", "trainer.max_epochs=4")
    assert outcome.exit_code == 2
    assert "keeps its settings, so that 'trainer.max_epochs=4' cannot be given" in outcome.stderr


def test_a_sweep_that_is_running_cannot_be_resumed(sweep, train):
    outcomes = []

    def task(config):
        from bnlab import UserError
        from bnlab.search.study.folder import SweepFolder

        folder = SweepFolder(Path(HydraConfig.get().runtime.output_dir).parent)
        with pytest.raises(UserError, match="is still running"), folder.lock():
            pass
        outcomes.append(True)
        return 0.5

    sweep("search=random", "search.num_trials=1", LR, task=task)
    assert outcomes == [True]


def test_a_stored_callback_of_hydra_that_is_not_called_is_named(sweep, train):
    callback = ("+hydra.callbacks.mine._target_=hydra.experimental.callback.Callback",)
    sweep("search=random", "search.num_trials=2", LR, *callback)
    outcome = train("-m", "search.resume=sweep", "search.trust=true")
    assert outcome.exit_code == 0
    assert (outcome.stdout + outcome.stderr).count("`hydra.callbacks.mine` is not called, because Hydra makes") == 1
    outcome = train("-m", "search.resume=sweep", "search.trust=true", *callback)
    assert outcome.exit_code == 0
    assert "not called" not in outcome.stdout + outcome.stderr


def test_a_failed_trial_whose_second_try_was_interrupted_is_tried_again(sweep, train, monkeypatch):
    def fails(config):
        if config.optimizer.lr == 0.02:
            raise ValueError("for now")
        return smooth(config)

    def interrupts(config):
        signal.raise_signal(signal.SIGINT)

    outcome, left = sweep("optimizer.lr=0.01,0.02,0.03", task=fails)
    assert outcome.exit_code == 1
    monkeypatch.setattr("bnlab.train.task", interrupts)
    assert train("-m", "search.resume=sweep", "search.retry_failed=true").exit_code == 130
    monkeypatch.setattr("bnlab.train.task", smooth)
    assert train("-m", "search.resume=sweep").exit_code == 0
    assert sorted(row["optimizer.lr"] for row in left.rows if row["status"] == "completed") == ["0.01", "0.02", "0.03"]
