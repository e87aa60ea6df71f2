"""Metrics of a user's own, from `own_metric.py` and `own_configs`, in every way of training."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from own_metric import macro_f1
from sklearn.metrics import f1_score
from stacked_oracle import configs_of, stacked
from tiny import tiny

import bnlab
from bnlab.config.build import build_splits
from bnlab.engines.fit import fit
from bnlab.errors import UserError
from bnlab.evaluate import evaluate
from bnlab.runs.reading import read_metrics

F1 = ["+metrics.f1._target_=own_metric.macro_f1", "+metrics.f1.higher_is_better=true"]
TOP2 = ["+metrics.miss._target_=own_metric.TopK", "+metrics.miss.k=2", "+metrics.miss.higher_is_better=false"]
CONFIGS = Path(__file__).parent / "own_configs"


def test_the_function_of_the_tests_is_f1() -> None:
    outputs, y = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 4
    assert float(macro_f1(outputs, y)) == pytest.approx(f1_score(y, outputs.argmax(1), average="macro"))


@pytest.mark.parametrize("trainer", ["default", "quick"])
def test_a_metric_is_that_of_the_network_with_its_best_weights(tmp_path: Path, trainer: str) -> None:
    config = bnlab.compose([f"trainer={trainer}", "trainer.max_epochs=2", *F1, *TOP2, "objective=val_f1"])
    summary = fit(config, tmp_path)
    run = bnlab.load(tmp_path, trust=True)
    splits = build_splits(run.config)
    for name, split in (("val", splits.val), ("test", splits.test)):
        assert run.normalization is not None
        with torch.no_grad():
            logits = run.network(run.normalization(split.x))
        assert summary[f"{name}_f1"] == pytest.approx(f1_score(split.y, logits.argmax(1), average="macro"))
        missed = [label not in row for label, row in zip(split.y, logits.topk(2).indices, strict=True)]
        assert summary[f"{name}_miss"] == pytest.approx(np.mean(missed))
    assert summary["objective"] == max(run.metrics["val_f1"])
    assert evaluate(tmp_path, trust=True) == {
        name: summary[name] for name in ("test_loss", "test_accuracy", "test_f1", "test_miss")
    }
    with pytest.raises(UserError, match=r"own_metric.macro_f1' in `metrics.f1`"):
        evaluate(tmp_path)


def test_a_lower_one_is_better_where_it_says_so(tmp_path: Path) -> None:
    summary = fit(bnlab.compose(["trainer=quick", *_lower()]), tmp_path)
    column = read_metrics(tmp_path / "metrics.csv")["val_miss"]
    assert summary["objective"] == min(column) < max(column)
    assert summary["best_epoch"] == 1 + column.index(min(column))


def test_a_metric_of_a_regression_is_in_the_unit_of_the_target(tmp_path: Path) -> None:
    own = ["+metrics.worst._target_=own_metric.largest_error", "+metrics.worst.higher_is_better=false"]
    overrides = ["task=regression", "trainer.max_epochs=2", *own]
    found = {}
    for trainer in ("quick", "default"):
        summary = fit(bnlab.compose([f"trainer={trainer}", *overrides]), tmp_path / trainer)
        found[trainer] = summary["test_worst"]
        run = bnlab.load(tmp_path / trainer, trust=True)
        test = build_splits(run.config).test
        assert summary["test_worst"] == pytest.approx(float((run.predict(test.x) - test.y).abs().max()), rel=1e-5)
    assert found["quick"] == pytest.approx(found["default"], rel=1e-5)


def test_each_network_of_a_stack_has_the_metrics_that_it_has_alone() -> None:
    each = [{"optimizer.lr": lr, "seed": seed} for seed, lr in enumerate((1e-3, 1e-2, 3e-3))]
    configs = configs_of(["trainer.max_epochs=2", *F1, *TOP2], each)
    together = stacked(configs)
    for config, trial in zip(configs, together, strict=True):
        (single,) = stacked([config])
        for name in ("train_f1", "val_f1", "train_miss", "val_miss"):
            assert trial.history.columns()[name] == pytest.approx(single.history.columns()[name], abs=0.02), name
    assert len({trial.history.rows[-1]["val_f1"] for trial in together}) == 3


def test_a_metric_changes_no_other_number() -> None:
    configs = [configs_of(["trainer.max_epochs=2", *own], [{}])[0] for own in ([], F1)]
    without, with_f1 = (stacked([config])[0].history.columns() for config in configs)
    for name in without.keys() - {"seconds"}:
        assert with_f1[name] == pytest.approx(without[name], rel=1e-6), name


def test_a_network_that_a_metric_cannot_take_ends_alone() -> None:
    own = ["+metrics.odd._target_=own_metric.raises_after_long", "+metrics.odd.higher_is_better=true"]
    configs = configs_of(
        ["trainer.max_epochs=2", "norm=none", "optimizer=sgd", *own],
        [{"optimizer.lr": lr} for lr in (1e-2, 2.0, 1e30)],
    )
    good, broken, diverged = stacked(configs)
    assert good.status == "completed"
    assert good.test_metrics["test_odd"] == 0.0
    assert broken.status == "failed"
    assert broken.summary["error"] == "`metrics.odd` cannot be computed: ZeroDivisionError: too large"
    assert diverged.status == "diverged"
    assert math.isnan(diverged.history.rows[0]["val_odd"])


@pytest.mark.parametrize("trainer", ["default", "quick"])
def test_early_stopping_watches_it(tmp_path: Path, trainer: str) -> None:
    stop = "lightning.pytorch.callbacks.EarlyStopping"
    callback = [f"+callbacks.stop._target_={stop}", "+callbacks.stop.monitor=val_f1", "+callbacks.stop.mode=max"]
    threshold = "+callbacks.stop.stopping_threshold=-1"  # which the first epoch passes
    summary = fit(tiny(f"trainer={trainer}", *F1, *callback, threshold), tmp_path)
    assert summary["epochs"] == 1


@pytest.mark.parametrize("trainer", ["default", "quick"])
def test_a_metric_that_raises_ends_the_run_in_a_line(tmp_path: Path, trainer: str) -> None:
    own = ["+metrics.bad._target_=own_metric.raises", "+metrics.bad.higher_is_better=true"]
    with pytest.raises(UserError, match=r"^`metrics.bad` cannot be computed: ZeroDivisionError: of the metric$"):
        fit(tiny(f"trainer={trainer}", *own), tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert summary["error"] == "`metrics.bad` cannot be computed: ZeroDivisionError: of the metric"


def test_a_metric_gives_one_number(tmp_path: Path) -> None:
    own = ["+metrics.bad._target_=torch.add", "+metrics.bad.higher_is_better=true"]
    config = tiny("trainer=quick", *own)
    OmegaConf.update(config, "metrics.bad._target_", "own_metric.both")
    with pytest.raises(UserError, match=r"`metrics.bad` must return one number, but returned a tensor \(2,\)\."):
        fit(config, tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (F1[:1], "`metrics.f1` must say which of two values is the better one: add +metrics.f1.higher_is_better=true,"),
        ([F1[0], "+metrics.f1.higher_is_better=max"], "`metrics.f1.higher_is_better` must be true or false, but got"),
        (["+metrics.f1=max"], "`metrics.f1` must name a class or a function as `_target_`, but got 'max'"),
        (
            ["+metrics.loss._target_=own_metric.macro_f1"],
            "`metrics.loss` must have another name: accuracy, r2, loss are measured in any case.",
        ),
        ([*F1, "objective=val_f2"], "`objective` must be 'val_accuracy', 'val_loss' or 'val_f1' with task="),
        (["+metrics.f1._target_=own_metric.nothing", F1[1]], "own_metric has no 'nothing'"),
        (
            ["metric.f1=macro_f1"],
            "a metric is added with +metrics.NAME._target_=CLASS +metrics.NAME.higher_is_better=true.",
        ),
    ],
)
def test_a_mistake_ends_in_a_line_before_any_training(train, tmp_path, monkeypatch, overrides, message) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = train(*overrides)
    assert outcome.exit_code == 2
    assert message in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("launcher", ["basic", "stacked"])
def test_a_sweep_is_ranked_by_a_metric_from_a_folder_of_configs(train, tmp_path, monkeypatch, launcher) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = train(
        *("-m", "--config-dir", CONFIGS, "+metrics=macro_f1", "objective=val_macro_f1", "hydra.sweep.dir=sweep"),
        *(f"hydra/launcher={launcher}", "trainer=quick", "trainer.max_epochs=2", "optimizer.lr=1e-5,1e-2"),
    )
    assert outcome.exit_code == 0, outcome.stderr
    sweep = bnlab.load_sweep(tmp_path / "sweep")
    assert sweep.objective_name == "val_macro_f1"
    assert sweep.settings == ["optimizer.lr"]
    low, high = sweep.metrics["val_macro_f1"]
    assert low < high == sweep.best_objective
    assert sweep.best == [
        *("+metrics=macro_f1", "objective=val_macro_f1", "trainer=quick", "trainer.max_epochs=2", "optimizer.lr=0.01")
    ]
    assert sweep.metrics["test_macro_f1"][1] == sweep.run(1, trust=True).summary["test_macro_f1"]
    assert "| 1 | 1 |" in (tmp_path / "sweep" / "leaderboard.md").read_text()


def test_a_comparison_and_a_leaderboard_know_that_a_lower_one_is_better(train, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not train("-m", "hydra.sweep.dir=sweep", "trainer=quick", *_lower(), "optimizer.lr=1e-5,1e-2").exit_code
    sweep = bnlab.load_sweep(tmp_path / "sweep")
    assert sweep.best_objective == min(sweep.metrics["val_miss"]) < max(sweep.metrics["val_miss"])
    from bnlab.comparison.comparison import compare

    table = compare([tmp_path / "sweep"]).table
    assert table.metrics == ["val_miss", "test_miss"]
    assert table.best["val_miss"] == {sweep.metrics["val_miss"].index(sweep.best_objective)}


def _lower() -> list[str]:
    return ["trainer.max_epochs=2", *TOP2, "objective=val_miss"]


def test_the_picture_of_a_run_has_a_panel_for_each_metric() -> None:
    from bnlab.figures.training import curves

    columns = [f"{split}_{name}" for split in ("train", "val") for name in ("accuracy", "f1", "loss")]
    figure = curves({"epoch": [1, 2], **{name: [0.5, 0.6] for name in columns}}, "title")
    assert [axes.get_title() for axes in figure.axes] == ["loss", "accuracy", "f1"]
