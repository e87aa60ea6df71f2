"""`trainer=quick`: the same run as by Lightning, without it."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from rich.console import Console
from tiny import Asked, tiny

import bnlab
from bnlab.composing import compose
from bnlab.config.settings import plain
from bnlab.engines.fit import fit
from bnlab.errors import UserError
from bnlab.evaluate import evaluate
from bnlab.stacked.grouping import group_key, why_alone
from bnlab.training.interrupt import InterruptRequest

QUIET = Console(quiet=True)
STOP = "lightning.pytorch.callbacks.EarlyStopping"
TOLERANCES = {"32-true": 1e-4, "64-true": 1e-9}
MEASURED = {"seconds", "samples_per_second", "command"}
SETTINGS = [
    "",
    "trainer.precision=32-true optimizer=sgd optimizer.lr=0.05",
    "norm=none optimizer=momentum optimizer.lr=0.01 scheduler=step scheduler.step_size=1",
    "norm=torch norm.placement=after optimizer=nesterov optimizer.lr=0.01 scheduler=exponential",
    "norm=ghost norm.virtual_batch_size=8 optimizer=sgd optimizer.lr=0.05 scheduler=constant",
    "norm=renorm norm.ramp_start=2 norm.ramp_end=6 optimizer=adamw",
    "optimizer=rmsprop scheduler=inverse_time data.normalize=false norm.momentum=null",
    "data.batch_size=full optimizer=sgd optimizer.lr=0.5 objective=val_loss",
    "data.batch_size=59 model.activation=tanh model.hidden=[6,5]",  # 1 sample of 60 is left over
    "trainer.gradient_clip_val=0.1 model.bias=true seed=5",
    "trainer.gradient_clip_val=0.01 trainer.gradient_clip_algorithm=value norm.placement=after",
    "trainer.max_steps=10",
    f"+callbacks.stop._target_={STOP} +callbacks.stop.monitor=val_loss +callbacks.stop.patience=0 "
    "+callbacks.stop.mode=max",
    "norm=none optimizer=sgd optimizer.lr=1e30",
]


def quick(*overrides: str):
    config = tiny("trainer=quick", *overrides)
    config.trainer.max_epochs = 3
    return config


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("overrides", SETTINGS, ids=lambda text: text or "defaults")
def test_a_quick_run_is_the_run_by_lightning(overrides: str, tmp_path: Path) -> None:
    words = ["trainer.precision=64-true", *overrides.split()]
    check_same(tiny(*words), quick(*words), tmp_path)


def test_a_quick_run_predicts_numbers_as_lightning_does(tmp_path: Path) -> None:
    words = ["task=regression", "trainer.accelerator=cpu", "trainer.max_epochs=3", "model.hidden=[6]"]
    check_same(compose(words), compose([*words, "trainer=quick"]), tmp_path)
    assert "test_r2" in evaluate(tmp_path / "quick")


def check_same(config: DictConfig, quick_config: DictConfig, tmp_path: Path) -> None:
    expected = fit(config, tmp_path / "lightning", console=QUIET)
    screen = io.StringIO()
    summary = fit(quick_config, tmp_path / "quick", console=Console(file=screen))
    assert "Lightning" not in screen.getvalue()
    tolerance = TOLERANCES[config.trainer.precision]
    assert summary.keys() == expected.keys()
    for name in summary.keys() - MEASURED:
        assert summary[name] == (
            pytest.approx(expected[name], rel=tolerance) if isinstance(expected[name], float) else expected[name]
        ), name
    assert files_of(tmp_path / "quick") == files_of(tmp_path / "lightning")
    curves, expected_curves = (read_metrics(tmp_path / way) for way in ("quick", "lightning"))
    assert list(curves) == list(expected_curves)
    for name in curves.keys() - {"seconds"}:
        assert curves[name] == pytest.approx(expected_curves[name], rel=tolerance, nan_ok=True), name
    checkpoints = [
        torch.load(tmp_path / way / "checkpoints/last.ckpt", weights_only=True) for way in ("quick", "lightning")
    ]
    assert checkpoints[0].keys() == checkpoints[1].keys()
    if config.trainer.max_steps == -1:  # where Lightning stops amid its counting
        assert checkpoints[0]["loops"]["fit_loop"] == checkpoints[1]["loops"]["fit_loop"]


def read_metrics(folder: Path) -> dict[str, list[float]]:
    header, *rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    return {name: list(map(float, column)) for name, column in zip(header, zip(*rows, strict=True), strict=True)}


def test_a_quick_run_is_read_back_and_evaluated_to_the_last_digit(tmp_path: Path) -> None:
    summary = fit(quick("norm.placement=after"), tmp_path / "run", console=QUIET)
    run = bnlab.load(tmp_path / "run", trust=True)
    assert run.summary == summary
    assert run.config.trainer._target_ == "bnlab.engines.quick.QuickTrainer"
    found = evaluate(tmp_path / "run", trust=True)
    assert found == {name: summary[name] for name in ("test_loss", "test_accuracy")}


WITHOUT_LIGHTNING = """
import sys
from bnlab.evaluate import evaluate
from bnlab.train import main
sys.argv[1:] = ["trainer=quick", "trainer.max_epochs=2", "hydra.run.dir=run"]
main()
print(evaluate("run"))
print([name for name in ("lightning", "torch._dynamo", "matplotlib") if name in sys.modules])
"""


def test_neither_lightning_nor_what_takes_as_long_is_imported_for_a_quick_run(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_LIGHTNING]
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    first, *_, evaluated, imported = outcome.stdout.splitlines()
    assert "loading torch ..." in first
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert evaluated == repr({name: summary[name] for name in ("test_loss", "test_accuracy")})
    assert imported == "[]"
    log = (tmp_path / "run/train.log").read_text()
    assert "epoch 2: " in log
    assert (tmp_path / "run/curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.filterwarnings("default")  # of TensorBoard's own
@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("+trainer.limit_train_batches=0.5", "trainer.limit_train_batches=0.5 is for Lightning's Trainer"),
        ("logger=tensorboard", "TensorBoardLogger is Lightning's"),
        ("+callbacks.own._target_=tiny.LogsItsOwn", "tiny.LogsItsOwn is for Lightning's Trainer"),
        ("model._target_=test_quick.Unstackable", "torch.func.vmap cannot stack"),
    ],
)
def test_what_quick_lacks_is_trained_by_lightning_and_a_line_says_why(override, reason, tmp_path, caplog) -> None:
    caplog.set_level("INFO")
    screen = io.StringIO()
    summary = fit(quick(override), tmp_path / "quick", console=Console(file=screen, width=200))
    (line,) = (line for line in screen.getvalue().splitlines() if "Lightning" in line)
    assert line.startswith("trainer=quick lacks what this run needs, so Lightning trains it: ")
    assert reason in line
    assert line in caplog.text
    expected = fit(tiny(override), tmp_path / "default", console=QUIET)
    assert summary["test_loss"] == expected["test_loss"]
    assert read_metrics(tmp_path / "quick")["val_loss"] == read_metrics(tmp_path / "default")["val_loss"]
    assert evaluate(tmp_path / "quick", trust=True)["test_loss"] == pytest.approx(summary["test_loss"], rel=1e-6)


class Unstackable(bnlab.MLP):
    """Asks for a number, which no stack has for all of its networks."""

    def __init__(self, input_shape, num_classes, *, norm=None, placement="before", hidden=(), **others) -> None:
        super().__init__(input_shape, num_classes, hidden=hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().forward(x)
        return logits if float(logits.detach().sum()) == float("inf") else logits.clone()


def test_a_mistake_is_refused_as_by_lightning(tmp_path: Path) -> None:
    for override, message in (
        ("data.batch_size=61", "the 60 samples of the training set"),
        ("+optimizer.betas=[0.5,0.9]", "`optimizer.betas` must be left out"),
    ):
        with pytest.raises(UserError, match=message):
            fit(quick(override), tmp_path / message[:5], console=QUIET)
        assert json.loads((tmp_path / message[:5] / "summary.json").read_text())["status"] == "failed"


def send_when(file: str, text: str, request_to_end: signal.Signals) -> None:
    """Send this process the signal as soon as `text` is in the file."""

    def wait() -> None:
        for _ in range(6000):
            if Path(file).is_file() and text in Path(file).read_text():
                os.kill(os.getpid(), request_to_end)
                return
            time.sleep(0.01)

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.parametrize("request_to_end", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_saves_and_says_how_to_go_on(train, request_to_end, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    send_when("run/train.log", "epoch 5:", request_to_end)
    outcome = train("trainer=quick", "trainer.max_epochs=1000000", "hydra.run.dir=run")
    assert outcome.exit_code == 130
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert summary["epochs"] > 0
    checkpoint = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["epoch"] == summary["epochs"] == read_metrics(tmp_path / "run")["epoch"][-1]  # amid the next one
    assert checkpoint["global_step"] == summary["steps"]
    assert f"interrupted after {summary['epochs']} epochs" in outcome.stdout
    assert outcome.stdout.splitlines()[-1] == "python -m bnlab.train resume=run"


@pytest.mark.parametrize("step", [3, 4, 6], ids=["amid the first epoch", "at its last step", "amid the second epoch"])
def test_an_interruption_leaves_what_lightning_leaves(step: int, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("bnlab.stacked.training.LOOK_EVERY_S", -1.0)
    summaries, states = [], []
    for way, config, questions in (("quick", quick(), step), ("lightning", tiny(), step + (step > 4))):
        monkeypatch.setattr(InterruptRequest, "is_requested", Asked(questions))  # Lightning's validation asks, too
        summaries.append(fit(config, tmp_path / way, console=QUIET))
        states.append(torch.load(tmp_path / way / "checkpoints/last.ckpt", weights_only=True))
    assert [(summary["status"], summary["steps"], summary["epochs"]) for summary in summaries] == [
        ("interrupted", step, (step - 1) // 4)
    ] * 2
    assert files_of(tmp_path / "quick") == files_of(tmp_path / "lightning")
    ours, theirs = states
    assert ours.keys() == theirs.keys()
    for name in ("epoch", "global_step", "lr_schedulers"):
        assert ours[name] == theirs[name]
    assert ours["loops"]["fit_loop"] == theirs["loops"]["fit_loop"]
    for name, value in theirs["state_dict"].items():
        torch.testing.assert_close(ours["state_dict"][name], value)


def test_a_quick_sweep_that_was_interrupted_is_resumed(train, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = ["-m", "trainer=quick", "seed=0,1", "model.hidden=[8]", "trainer.max_epochs=400", "scheduler=constant"]
    send_when("sweep/1/train.log", "epoch 5:", signal.SIGINT)
    assert train(*sweep, "hydra.sweep.dir=sweep").exit_code == 130
    outcome = train("-m", "search.resume=sweep")
    assert outcome.exit_code == 0, outcome.stderr
    summaries = [json.loads(file.read_text()) for file in sorted((tmp_path / "sweep").glob("*/summary.json"))]
    ended = [summary for summary in summaries if summary["status"] == "completed"]
    assert sorted(summary["seed"] for summary in ended) == [0, 1]
    assert {summary["epochs"] for summary in ended} == {400}
    assert any(summary["status"] == "interrupted" for summary in summaries)


def test_in_a_stack_quick_is_as_good_as_default() -> None:
    quick, default = (plain(compose([f"trainer={name}", "trainer.accelerator=cpu"])) for name in ("quick", "default"))
    assert why_alone(quick) is None
    assert group_key(quick) == group_key(default)
