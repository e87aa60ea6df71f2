"""A run trained again: what it says of the same numbers, and of others."""

import json
import signal
import subprocess

import pytest
from recorded import record

import bnlab
from bnlab.composing import compose
from bnlab.data import Split, Splits, digits
from bnlab.data.fingerprint import fingerprint
from bnlab.engines.repetition import differences, repeat
from bnlab.errors import UserError
from bnlab.evaluate import main as evaluate_command
from bnlab.look import main as look_command
from bnlab.repeat import main
from bnlab.runs.repository import git_state
from bnlab.stacked import train as train_stack


@pytest.fixture
def run(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = train("trainer.max_epochs=2", "norm=ghost", "seed=3", "hydra.run.dir=run")
    assert outcome.exit_code == 0, outcome.stderr
    return tmp_path / "run"


def test_a_run_repeats_bit_for_bit_and_one_with_another_seed_does_not(run, tmp_path, command_of) -> None:
    shown = command_of(main)(run)
    assert shown.exit_code == 0
    assert "the same: all 16 numbers agree, bit for bit" in shown.stdout
    (again,) = (tmp_path / "outputs" / "repeats").glob("*/*")
    assert (again / "config.yaml").read_text() == (run / "config.yaml").read_text()

    config = run / "config.yaml"
    config.write_text(config.read_text().replace("seed: 3", "seed: 4"))
    summary = json.loads((run / "summary.json").read_text())
    summary["versions"]["torch"] = "1.0"
    summary["data_sha256"] = "other"
    (run / "summary.json").write_text(json.dumps(summary))
    shown = command_of(main)(run, "--into", "other")
    assert shown.exit_code == 1
    assert "different:\n" in shown.stdout
    assert "train_loss in epoch 1: " in shown.stdout
    assert "torch was 1.0 and is now " in shown.stdout
    assert "the data have changed" in shown.stdout


def test_a_run_of_a_stack_repeats_alone_up_to_rounding(tmp_path) -> None:
    configs = [compose(["trainer.max_epochs=2", "trainer.accelerator=cpu", f"seed={seed}"]) for seed in (0, 1)]
    train_stack(configs, tmp_path / "stack")
    first, *_ = sorted(path.parent for path in (tmp_path / "stack").glob("*/summary.json"))
    repetition = repeat(first, tmp_path / "again")
    assert repetition.is_same or repetition.is_rounding, repetition.found
    stored = json.loads((first / "summary.json").read_text())
    assert stored["data_sha256"] == json.loads((tmp_path / "again" / "summary.json").read_text())["data_sha256"]


def test_a_run_that_diverged_at_once_is_repeated_and_says_why_there_is_nothing_to_look_into(
    tmp_path, monkeypatch, command_of
) -> None:
    monkeypatch.chdir(tmp_path)
    found = bnlab.run(
        ["trainer=quick", "trainer.max_epochs=2", "norm=none", "optimizer=sgd", "optimizer.lr=1e30"], "run"
    )
    assert repr(found) == "Run('run', diverged)"
    assert found.summary["diverged_epoch"] == 1
    shown = command_of(main)("run", "--into", "again")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert "the same: all 9 numbers agree, bit for bit" in shown.stdout
    for command in (evaluate_command, look_command):
        shown = command_of(command)("run")
        assert shown.exit_code == 2
        (line,) = shown.stderr.splitlines()
        assert "The run in 'run' diverged in epoch 1, before it had any best weights" in line
    with pytest.raises(UserError, match="diverged in epoch 1"):
        found.predict(digits().test.x)


@pytest.mark.parametrize(
    ("status", "told"),
    [("failed", r"it failed \(no room\)\."), ("interrupted", "it was interrupted before its first epoch")],
)
def test_a_run_without_an_epoch_says_why_it_has_none(status, told, tmp_path) -> None:
    record(tmp_path / "run", val_accuracy=(), status=status, error="no room")
    with pytest.raises(UserError, match=told):
        bnlab.load(tmp_path / "run")


def test_numbers_are_compared_one_by_one() -> None:
    nan = float("nan")
    before = {"epoch": [1, 2, 3], "val_loss": [0.5, 0.25, nan], "seconds": [1, 2, 3]}
    now = {"epoch": [1, 2, 3], "val_loss": [0.5, 0.2500001, nan], "seconds": [7, 8, 9]}
    found, number = differences(before, {"test_loss": None}, now, {"test_loss": None})
    assert number == 7
    (one,) = found
    assert (one.name, one.epoch, one.before, one.now) == ("val_loss", 2, 0.25, 0.2500001)
    assert one.largest == pytest.approx(4e-7, rel=1e-3)
    shorter, _ = differences(before, {"test_loss": 1.0}, {"epoch": [1], "val_loss": [0.5]}, {})
    assert [(one.name, one.epoch) for one in shorter] == [("epoch", 2), ("val_loss", 2), ("test_loss", None)]


def test_what_cannot_be_repeated_is_refused(run, tmp_path) -> None:
    with pytest.raises(UserError, match="already holds a run"):
        repeat(run, run)
    with pytest.raises(UserError, match="not the folder of a run"):
        repeat(tmp_path / "none", tmp_path / "other")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("torch.optim.Adam", "os.system"))
    with pytest.raises(UserError, match=r"asks for .os\.system. in `optimizer`"):
        repeat(run, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_fingerprint_tells_one_value_in_a_hundred_thousand() -> None:
    splits = digits()
    x = splits.test.x.clone()
    x[7, 0, 3, 3] += 1
    assert fingerprint(splits) == fingerprint(digits())
    assert fingerprint(splits) != fingerprint(Splits(splits.train, splits.val, Split(x, splits.test.y), 10))
    assert fingerprint(splits) != fingerprint(digits(split_seed=1))


def test_a_run_knows_the_commit_and_runs_no_program_of_the_repository(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    git_state.cache_clear()
    try:
        assert git_state() is None
        git_state.cache_clear()
        before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # as in the workers of stacks
        try:
            assert git_state() is None
        finally:
            signal.signal(signal.SIGCHLD, before)

        def git(*arguments):
            subprocess.run(
                ["git", "-c", "user.name=n", "-c", "user.email=e", *arguments], check=True, capture_output=True
            )

        git("init", "-q")
        (tmp_path / "code.py").write_text("1")
        git("add", "code.py")
        git("commit", "-qm", "first")
        head = subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
        git_state.cache_clear()
        assert git_state() == {"commit": head, "is_clean": True}
        git("config", "core.fsmonitor", "touch monitored; true")
        git("config", "filter.evil.clean", "touch filtered; cat")
        (tmp_path / ".git" / "info" / "attributes").write_text("* filter=evil\n")
        (tmp_path / "code.py").write_text("2")
        git_state.cache_clear()
        assert git_state() == {"commit": head, "is_clean": False}
        assert not (tmp_path / "monitored").exists()
        assert not (tmp_path / "filtered").exists()
    finally:
        git_state.cache_clear()
