"""What a person who types `python -m bnlab.train` sees: results, one line on a mistake, Ctrl-C."""

import copy
import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest

import bnlab
from bnlab.evaluate import main as evaluate_main
from bnlab.text import command_line
from bnlab.text.number_format import percent

QUICK = ("trainer.max_epochs=2", "trainer.accelerator=cpu")


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run_folders() -> list[Path]:
    return sorted(Path("outputs/runs").glob("*/*"))


def test_train_leaves_one_run_folder_and_names_it(train: Callable) -> None:
    outcome = train(*QUICK, "optimizer=sgd")
    assert outcome.exit_code == 0
    assert outcome.stderr == ""
    (folder,) = run_folders()
    run = bnlab.load(folder)
    assert run.overrides == [*QUICK, "optimizer=sgd"]
    for shown in (
        "completed",
        str(folder),
        percent(run.summary["test_accuracy"]),
        percent(run.summary["val_accuracy"]),
    ):
        assert shown in outcome.stdout
    assert "epoch 2: " in (folder / "train.log").read_text()


def test_the_command_of_a_summary_repeats_the_run(train: Callable) -> None:
    train(*QUICK, "model.hidden=[20, 10]", "seed=3")
    first = bnlab.load(run_folders()[0])
    *_, module_and_overrides = first.summary["command"].partition("bnlab.train ")
    train(*shlex.split(module_and_overrides), "hydra.run.dir=again")
    again = bnlab.load("again")
    assert again.summary["test_loss"] == first.summary["test_loss"]
    assert again.metrics["train_loss"] == first.metrics["train_loss"]


def test_runs_of_the_same_second_get_folders_of_their_own(train: Callable) -> None:
    for _ in range(3):
        train(*QUICK, "trainer.max_steps=1")
    assert len(run_folders()) == 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.lrr=1"], "There is no setting `optimizer.lrr`: did you mean optimizer.lr=1?"),
        (["norm.placement=sideways"], "`norm.placement` must be 'before' or 'after', but got 'sideways'."),
        (["optimizer.lr=-1"], "`optimizer.lr` must be a finite number >= 0, but got -1."),
        (["optimizer.lr=nan"], "`optimizer.lr` must be a finite number >= 0, but got nan."),
        (["optimizer.lr=fast"], "`optimizer.lr` must be a finite number >= 0, but got 'fast'."),
        (["optimizer.beta1=1"], "`optimizer.beta1` must be a finite number >= 0 and < 1, but got 1."),
        (
            ["model.hidden=[0]"],
            "`model.hidden` must be a list such as [100,100], each item a whole number >= 1, but got [0].",
        ),
        (["model.hidden=100"], "`model.hidden` must be a list"),
        (["model.activation=swoosh"], "`model.activation` must be one of relu"),
        (["data.batch_size=1"], "`data.batch_size` must be at least 2 with batch norm"),
        (["data.batch_size=0"], "`data.batch_size` must be a whole number >= 1 or 'full'"),
        (["data.batch_size=half"], "`data.batch_size` must be a whole number >= 1 or 'full'"),
        (["data.batch_size=1078"], "between 1 and the 1077 samples of the training set, but got 1078"),
        (["data=mnist", "data.root=nowhere"], "MNIST is not in `data.root`='nowhere' and could not be downloaded"),
        (["data=no_such_set"], "data=no_such_set is not one of the choices cifar10, "),
        (["seed=-1"], "`seed` must be a whole number >= 0"),
        (["trainer.max_epochs=0"], "`trainer.max_epochs` must be a whole number >= 1 or -1 (no limit), but got 0."),
        (["trainer.max_epochs=-1", "scheduler=constant"], "training never ends"),
        (["trainer.max_epochs=-1", "trainer.max_steps=9"], "set it or scheduler=constant"),
        (["trainer.accelerator=abacus"], "`trainer.accelerator` must be 'auto', 'cpu'"),
        (["trainer.devices=2", "+trainer.strategy=ddp"], "`trainer.devices` must be 1, or a list of one index"),
        (["+trainer.check_val_every_n_epoch=2"], "`trainer.check_val_every_n_epoch` must be 1 (metrics.csv has one"),
        (["+callbacks.x._target_=lightning.pytorch.callbacks.LearningRateMonitor"], "choose logger=tensorboard"),
        (["+trainer.speed=11"], "adds an argument that lightning.pytorch.Trainer does not take"),
        (["+data.typo=1"], "adds an argument that bnlab.data.digits does not take"),
        (["+optimizer.speed=11"], "adds an argument that torch.optim.Adam does not take"),
        (["logger=tensorboard", "logger._target_=nowhere.Logger"], "there is no module 'nowhere'"),
        (["optimizer.lr=["], "has a [ that nothing closes"),
        (["hydra.run.dir=/dev/null/run"], "A run's folder cannot be written ([Errno 20]"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(overrides: list[str], message: str, train: Callable) -> None:
    outcome = train("trainer.accelerator=cpu", *overrides)
    assert outcome.exit_code == 2
    assert outcome.stdout.count("\n") == outcome.stdout.count("Training digits") < 2  # what only torch can refuse
    assert outcome.stderr.count("\n") == 1
    assert message in outcome.stderr
    assert not Path("outputs").exists()


def test_a_traceback_is_there_for_who_asks(train: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnlab.errors.WANTS_TRACEBACK", True)
    with pytest.raises(bnlab.UserError, match="sideways"):
        train("norm.placement=sideways")


@pytest.mark.parametrize("mode", [(), ("-m", "seed=0,1")], ids=["run", "sweep"])
def test_a_folder_that_hydra_would_take_for_an_interpolation_is_refused(mode, train, monkeypatch, tmp_path) -> None:
    folder = tmp_path / "${oc.env:HOME}"
    folder.mkdir()
    monkeypatch.chdir(folder)
    outcome = train(*mode)
    assert outcome.exit_code == 2
    assert outcome.stderr.startswith("Hydra would resolve the ${ in the path of the current folder")
    assert outcome.stderr.count("\n") == 1
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("kind", ["run", "sweep"])
@pytest.mark.parametrize("folder", [r"there/\${oc.env:HOME}", r'"there/\${seed}"'])
def test_a_folder_is_not_called_like_an_interpolation(folder, kind, train, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = train(*(["-m", "seed=0,1"] if kind == "sweep" else []), f"hydra.{kind}.dir={folder}")
    assert (outcome.exit_code, outcome.stderr.count("\n")) == (2, 1), outcome.stderr
    assert outcome.stderr.startswith(f"A {kind}'s folder must not have ${{ in its path, which Hydra would resolve: ")
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_in_the_same_folder_is_refused(train: Callable) -> None:
    assert train(*QUICK, "hydra.run.dir=here").exit_code == 0
    outcome = train(*QUICK, "hydra.run.dir=here")
    assert outcome.exit_code == 2
    assert "already holds a run" in outcome.stderr
    assert bnlab.load("here").summary["status"] == "completed"


def test_divergence_ends_with_exit_code_0_and_names_the_epoch(train: Callable) -> None:
    outcome = train(*QUICK, "norm=none", "optimizer=sgd", "optimizer.lr=1e6")
    assert outcome.exit_code == 0
    assert "diverged: the loss of epoch 1 is not finite" in outcome.stdout


def test_evaluate_prints_the_summarys_test_metrics(
    train: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(*QUICK, "hydra.run.dir=here")
    summary = bnlab.load("here").summary
    monkeypatch.setattr(sys, "argv", ["bnlab.evaluate", "here"])
    capsys.readouterr()
    evaluate_main()
    loss, accuracy = f"{summary['test_loss']:#.4g}", f"{100 * summary['test_accuracy']:.2f} %"
    assert capsys.readouterr().out == f"test loss {loss}\ntest accuracy {accuracy}\n"


def test_evaluate_of_no_run_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bnlab.evaluate", "."])
    with pytest.raises(SystemExit) as stop:
        evaluate_main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == "'.' is not the folder of a run with results: it has no config.yaml.\n"


def test_the_resolved_config_has_the_widths(train: Callable) -> None:
    shown = train("--cfg", "job", "--resolve", "model.num_layers=2", "model.num_units=7")
    assert shown.exit_code == 0, shown.stderr
    assert "  hidden:\n  - 7\n  - 7\n" in shown.stdout


def start_in_a_terminal(*overrides: str) -> pexpect.spawn:
    command = [sys.executable, "-m", "bnlab.train", "trainer.accelerator=cpu", "hydra.run.dir=here", *overrides]
    return pexpect.spawn(command[0], command[1:], dimensions=(30, 100), encoding="utf-8", timeout=60)


def test_progress_bar_shows_loss_accuracy_and_time_left() -> None:
    terminal = start_in_a_terminal("trainer.max_epochs=50")
    terminal.expect(r"epoch \d+/50 .*val accuracy \d+\.\d+ %  loss \d\.\d+ .*\d:\d\d used, \d:\d\d left")
    terminal.expect("completed")
    assert "epoch 51/50" not in terminal.before
    assert re.findall(r"epoch (\d+)/50", terminal.before)[-1] == "50"
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_last_checkpoint_and_shows_the_table(sent: signal.Signals) -> None:
    terminal = start_in_a_terminal("trainer.max_epochs=100000")
    terminal.expect(r"epoch \d\d/100000")
    os.kill(terminal.pid, sent)
    terminal.expect("interrupted")
    terminal.expect("val accuracy")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 130
    run = bnlab.load("here")
    assert run.summary["status"] == "interrupted"
    assert run.summary["epochs"] == len(run.metrics["epoch"]) > 1
    import torch

    checkpoint = torch.load("here/checkpoints/last.ckpt", weights_only=True)
    # after the last recorded epoch, and before the next one, of 17 steps and an evaluation, was recorded
    assert 0 <= checkpoint["global_step"] - run.metrics["step"][-1] <= 17


@pytest.mark.parametrize("asked", [("--cfg", "job"), ("--cfg", "all", "-p", "norm"), ("--help",)], ids=" ".join)
def test_what_is_shown_of_a_run_is_shown_of_a_sweep(asked: tuple[str, ...], train: Callable) -> None:
    alone = train(*asked, "seed=3")
    sweep = train("-m", *asked, "seed=3", "norm.eps=1e-3,1e-4")
    assert alone.exit_code == sweep.exit_code == 0
    assert sweep.stdout == alone.stdout != ""


def test_what_is_shown_of_a_sweep_is_the_sweeps(train: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("handlers", "level"):  # Hydra's --info adds to them what no other test wants
        monkeypatch.setattr(logging.getLogger(), name, copy.copy(getattr(logging.getLogger(), name)))
    assert train("-m", "--cfg", "hydra", "-p", "hydra.mode").stdout.endswith("MULTIRUN\n")
    outcome = train("-m", "--info", "searchpath", "norm=batch,none")
    assert outcome.exit_code == 0
    assert "| main " in outcome.stdout


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["hydra.sweep.dir=/dev/null/sweep", "seed=0,1"], "A sweep's folder cannot be written ([Errno 20]"),
        (["hydra.sweep.dir=/dev/null/sweep", "seed=0,1"], "choose another with hydra.sweep.dir=."),
        (["norm=batch,nan"], "norm=nan is not one of the choices batch, "),
        (["norm=nan"], "norm=nan is not one of the choices batch, "),
        (["--run", "seed=0,1"], "Only one of --run, --multirun"),
        (["optimizer.lr=0.1,nan"], "optimizer.lr"),
    ],
)
def test_a_sweeps_mistake_is_one_line_too(overrides: list[str], message: str, train: Callable) -> None:
    outcome = train("-m", *overrides)
    assert outcome.exit_code == 2
    assert outcome.stdout.count("\n") == outcome.stdout.count("Searching ") < 2
    assert outcome.stderr.count("\n") == 1
    assert message in outcome.stderr


@pytest.mark.parametrize("way", ["disabled", "none", "stdout"])
def test_hydras_own_ways_of_logging_train_too(way: str, train: Callable) -> None:
    alone = train(*QUICK, "trainer.max_steps=1", f"hydra/job_logging={way}", "hydra.run.dir=run")
    several = [f"hydra/job_logging={way}", "hydra/hydra_logging=disabled", "hydra.sweep.dir=sweep"]
    sweep = train("-m", *QUICK, "trainer.max_steps=1", *several, "data.batch_size=64,5000")
    assert (alone.exit_code, sweep.exit_code) == (0, 1), alone.stderr + sweep.stderr
    assert "Traceback" not in sweep.stdout + sweep.stderr
    assert json.loads(Path("run/summary.json").read_text())["status"] == "completed"


def test_what_a_run_cannot_read_is_no_matter_of_its_folder(train: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def task(config: object) -> None:
        Path("nowhere.txt").read_text()

    monkeypatch.setattr("bnlab.train.task", task)
    with pytest.raises(FileNotFoundError):
        train()


def test_a_path_is_shown_where_the_current_directory_was_removed(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    assert command_line.shown(tmp_path / "gone" / "x") == "x"
    (tmp_path / "gone").rmdir()
    assert command_line.shown(tmp_path / "gone" / "x") == str(tmp_path / "gone" / "x")


@pytest.mark.parametrize("arguments", [["trainer=quick"], ["-m", "seed=0,1"]])
def test_a_current_folder_that_was_removed_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    code = "import os, sys, bnlab.train; os.rmdir(os.getcwd()); bnlab.train.main()"
    outcome = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path / "gone", capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 2
    assert outcome.stderr == "The current folder was removed: change to another, and run the command again.\n"
