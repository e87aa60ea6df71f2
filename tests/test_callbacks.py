"""Callbacks of a config: those of Lightning, and a user's own."""

import io
import json
from pathlib import Path

import lightning.pytorch.callbacks
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from tiny import data, tiny

import bnlab
from bnlab.config.build import build_logger
from bnlab.engines.fit import fit
from bnlab.errors import UserError
from bnlab.evaluate import evaluate
from bnlab.training.lightning.callbacks import build_callbacks

LIGHTNING = "lightning.pytorch.callbacks."
QUIET = Console(file=io.StringIO())


def with_callback(target: str, arguments: dict | None = None, *overrides: str):
    config = tiny(*overrides)
    config.callbacks = {"own": {"_target_": target, **(arguments or {})}}
    return config


@pytest.mark.parametrize(
    ("target", "arguments", "message"),
    [
        (LIGHTNING + "BatchSizeFinder", {}, "compare sizes with -m data.batch_size=64,256,full"),
        (LIGHTNING + "LearningRateFinder", {}, "search/space=learning_rate"),
        (LIGHTNING + "StochasticWeightAveraging", {"swa_lrs": 0.1}, "use lightning.pytorch.callbacks.WeightAveraging"),
        (LIGHTNING + "ModelPruning", {"pruning_fn": "l1_unstructured"}, "would hold other weights"),
        (LIGHTNING + "LearningRateMonitor", {}, "choose logger=tensorboard"),
        (LIGHTNING + "DeviceStatsMonitor", {}, "choose logger=tensorboard"),
        (LIGHTNING + "EarlyStopping", {"monitor": "val_los"}, "`callbacks.own.monitor` must be one of train_loss"),
        (LIGHTNING + "ModelCheckpoint", {"monitor": "accuracy"}, "must be one of train_loss, .*, epoch, step"),
        (LIGHTNING + "EarlyStopping", {}, "missing 1 required positional argument: 'monitor'"),
        (LIGHTNING + "NoSuchThing", {}, "which cannot be imported"),
        (LIGHTNING + "ThroughputMonitor", {"batch_size_fn": [1]}, r"batch_size_fn` must be a function .* got \[1\]: "),
        ("builtins.dict", {}, "must be a Callback of Lightning's, but got builtins.dict"),
        (LIGHTNING + "EarlyStopping", {"_partial_": True, "monitor": "val_loss"}, "must be a Callback"),
    ],
)
def test_a_callback_that_cannot_do_its_work_is_refused_in_one_line(target, arguments, message, tmp_path) -> None:
    with pytest.raises(UserError, match=message) as error:
        build_callbacks(with_callback(target, arguments), tmp_path)
    assert str(error.value).startswith("`callbacks.own")
    assert "\n" not in str(error.value)


def test_a_logger_is_what_monitors_write_to_and_an_own_callback_may_log_anything(tmp_path: Path) -> None:
    config = with_callback(LIGHTNING + "LearningRateMonitor", {}, "logger=tensorboard")
    assert build_logger(config, tmp_path)
    assert len(build_callbacks(config, tmp_path)) == 1
    config = tiny()
    config.callbacks = {
        "own": {"_target_": "tiny.LogsItsOwn"},
        "stop": {"_target_": LIGHTNING + "EarlyStopping", "monitor": "own", "mode": "min", "patience": 1},
    }
    assert fit(config, tmp_path / "run", console=QUIET)["epochs"] == 2


@pytest.mark.parametrize(
    ("target", "arguments", "steps"),
    [
        (LIGHTNING + "WeightAveraging", {}, 12),
        (LIGHTNING + "EMAWeightAveraging", {"decay": 0.5}, 12),
        (LIGHTNING + "GradientAccumulationScheduler", {"scheduling": {1: 2}}, 4 + 2 + 2),
        (LIGHTNING + "ModelCheckpoint", {"filename": "best", "save_last": True, "monitor": "val_loss"}, 12),
        (LIGHTNING + "RichProgressBar", {}, 12),
    ],
    ids=lambda value: value.rpartition(".")[2] if isinstance(value, str) else None,
)
def test_the_objective_is_that_of_the_weights_in_best_ckpt(target, arguments, steps, tmp_path: Path) -> None:
    if not hasattr(lightning.pytorch.callbacks, target.rpartition(".")[2]):
        pytest.skip("this version of Lightning has no such callback")
    summary = fit(with_callback(target, arguments), tmp_path / "run", console=QUIET)
    run = bnlab.load(tmp_path / "run")
    assert (summary["status"], summary["epochs"], summary["steps"]) == ("completed", 3, steps)
    assert run.metrics["step"][-1] == steps
    val = data().val
    with torch.no_grad():
        logits = run.network(run.normalization(val.x))
    assert summary["val_loss"] == pytest.approx(float(F.cross_entropy(logits, val.y)), rel=1e-5)
    assert evaluate(tmp_path / "run", trust=True)["test_loss"] == summary["test_loss"]


def test_model_checkpoint_has_a_folder_of_its_own(tmp_path: Path) -> None:
    """Its best.ckpt was ours before, which it deleted when a better one came."""
    config = with_callback(LIGHTNING + "ModelCheckpoint", {"filename": "best"})
    fit(config, tmp_path / "run", console=QUIET)
    assert {str(path.relative_to(tmp_path / "run/checkpoints")) for path in (tmp_path / "run").rglob("*.ckpt")} == {
        "best.ckpt",
        "last.ckpt",
        "own/best.ckpt",
    }


def test_a_callback_that_raises_amid_training_takes_no_results_with_it(tmp_path: Path) -> None:
    config = with_callback("tiny.Raising", {"hook": "on_train_batch_end", "step": 10})
    with pytest.raises(RuntimeError, match="the wheel"):
        fit(config, tmp_path / "run", console=QUIET)
    run = bnlab.load(tmp_path / "run")
    assert (run.summary["status"], run.summary["error"]) == ("failed", "the wheel came off")
    assert (run.summary["epochs"], run.summary["steps"], len(run.metrics["epoch"])) == (2, 10, 2)
    assert run.summary["objective"] == max(run.metrics["val_accuracy"])


def test_a_callback_that_raises_before_the_first_step_is_a_mistake_in_one_line(tmp_path: Path) -> None:
    config = with_callback("tiny.Raising", {"hook": "on_train_start", "step": 0})
    with pytest.raises(UserError, match=r"`trainer`, `callbacks`: the wheel came off"):
        fit(config, tmp_path / "run", console=QUIET)
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "failed"
