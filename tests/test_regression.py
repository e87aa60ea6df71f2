"""Predicting real numbers: single runs, stacks and what is read back, against plain torch and scikit-learn."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import mean_squared_error, r2_score

import bnlab
from bnlab import MLP, BatchNorm1d
from bnlab.composing import compose
from bnlab.data import EpochOrder, Normalization, Split, Splits, from_csv, from_npz
from bnlab.errors import UserError
from bnlab.evaluate import evaluate
from bnlab.stacked import train as train_stack


def run(train, folder, *overrides):
    outcome = train("task=regression", "trainer.max_epochs=3", f"hydra.run.dir={folder}", *overrides)
    assert outcome.exit_code == 0, outcome.stderr
    return json.loads((folder / "summary.json").read_text()), outcome


def test_a_run_equals_a_plain_loop_in_float64_and_scikit_learns_scores(train, tmp_path) -> None:
    """Written out by hand: targets standardized, MSE in their own unit, R^2, the best epoch tested."""
    overrides = [
        "trainer.precision=64-true",
        "optimizer=sgd",
        "optimizer.lr=0.05",
        "scheduler=constant",
        "num_threads=1",
    ]
    summary, _ = run(train, tmp_path / "run", *overrides, "model.hidden=[16]", "data.batch_size=50")
    splits = bnlab.data.diabetes()
    normalize = Normalization.of(splits.train)
    x = {name: normalize(getattr(splits, name).x) for name in ("train", "val", "test")}
    y = {name: getattr(splits, name).y.numpy() for name in x}
    mean, std = y["train"].mean(), y["train"].std()
    scaled = torch.from_numpy((y["train"] - mean) / std)
    torch.manual_seed(0)
    network = MLP(10, 1, hidden=[16], norm=BatchNorm1d).double()
    with torch.no_grad():
        torch.manual_seed(0)
        for own, single in zip(
            network.parameters(), MLP(10, 1, hidden=[16], norm=BatchNorm1d).parameters(), strict=True
        ):
            own.copy_(single)
    order, best = EpochOrder(len(scaled), 0), None
    for epoch in range(3):
        order.set_epoch(epoch)
        network.train()
        for indices in order.indices().split(50):
            loss = F.mse_loss(network(x["train"][indices])[:, 0], scaled[indices])
            network.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter -= 0.05 * parameter.grad
        network.eval()
        predicted = {name: network(x[name])[:, 0].detach().numpy() * std + mean for name in ("val", "test")}
        if best is None or r2_score(y["val"], predicted["val"]) > r2_score(y["val"], best["val"]):
            best = predicted
    for name in ("val", "test"):
        assert summary[f"{name}_r2"] == pytest.approx(r2_score(y[name], best[name]), rel=1e-9)
        assert summary[f"{name}_loss"] == pytest.approx(mean_squared_error(y[name], best[name]), rel=1e-9)
    assert (summary["num_classes"], summary["objective_name"]) == (None, "val_r2")


def test_what_is_read_back_predicts_in_the_unit_of_the_target(train, tmp_path) -> None:
    summary, outcome = run(train, tmp_path / "run")
    assert "test R²" in outcome.stdout
    loaded = bnlab.load(tmp_path / "run")
    test = bnlab.data.diabetes().test
    predicted = loaded.predict(test.x)
    assert r2_score(test.y, predicted) == pytest.approx(summary["test_r2"], rel=1e-5)
    assert mean_squared_error(test.y, predicted) == pytest.approx(summary["test_loss"], rel=1e-5)
    again = evaluate(tmp_path / "run")
    assert again == {name: summary[name] for name in ("test_loss", "test_r2")}


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["norm=none", "optimizer=momentum"],
        ["norm=ghost", "norm.virtual_batch_size=16", "scheduler=step"],
        ["data.normalize_target=false", "optimizer.lr=0.5", "trainer.gradient_clip_val=1"],
        ["norm=torch", "norm.placement=after", "model.activation=tanh", "objective=val_loss"],
        ["trainer.precision=64-true", "data.batch_size=full"],
    ],
    ids=["default", "momentum", "ghost", "raw targets", "after", "double"],
)
def test_a_stack_of_regressions_equals_each_alone(train, tmp_path, overrides) -> None:
    seeds = (0, 1)
    configs = [
        compose(["task=regression", "trainer.max_epochs=3", "trainer.accelerator=cpu", *overrides, f"seed={seed}"])
        for seed in seeds
    ]
    summaries = train_stack(configs, tmp_path / "stack")
    for seed, stacked in zip(seeds, summaries, strict=True):
        alone, _ = run(train, tmp_path / f"alone{seed}", "trainer.accelerator=cpu", *overrides, f"seed={seed}")
        assert stacked["status"] == alone["status"] == "completed"
        for name in ("train_loss", "train_r2", "val_loss", "val_r2", "test_loss", "test_r2"):
            assert stacked[name] == pytest.approx(alone[name], rel=2e-4, abs=1e-5), name
    inputs = bnlab.data.diabetes().test
    loaded = bnlab.load(next((tmp_path / "stack").glob("*1")))
    assert r2_score(inputs.y, loaded.predict(inputs.x)) == pytest.approx(summaries[1]["test_r2"], rel=1e-4)


def test_early_stopping_and_a_sweep_know_the_score(train, tmp_path) -> None:
    """A row of val_r2 ends the training early, in a stack as alone; the leaderboard ranks by it."""
    stop = [
        "+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping",
        "+callbacks.stop.monitor=val_r2",
        "+callbacks.stop.mode=max",
        "+callbacks.stop.patience=1",
        "optimizer.lr=0.05",
    ]
    alone = train("task=regression", *stop, f"hydra.run.dir={tmp_path / 'alone'}")
    assert alone.exit_code == 0, alone.stderr
    (stacked,) = train_stack([compose(["task=regression", "trainer.accelerator=cpu", *stop])], tmp_path / "stack")
    summary = json.loads((tmp_path / "alone" / "summary.json").read_text())
    assert summary["epochs"] == stacked["epochs"] < 30
    refused = train("task=regression", *[part.replace("val_r2", "val_accuracy") for part in stop])
    assert refused.exit_code == 2
    assert "must be one of train_loss, train_r2, val_loss, val_r2, but got 'val_accuracy'" in refused.stderr
    outcome = train(
        "-m",
        "task=regression",
        "optimizer.lr=0.01,1e-9",
        "trainer.max_epochs=2",
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
    )
    assert outcome.exit_code == 0, outcome.stderr
    board = (tmp_path / "sweep" / "leaderboard.md").read_text()
    assert "val_r2" in board
    assert "test_r2" in board
    header, *rows = (tmp_path / "sweep" / "trials.csv").read_text().splitlines()
    assert "test_r2" in header
    assert len(rows) == 2


def test_a_target_of_a_file_may_be_a_number(tmp_path) -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(40, 2)), generator.normal(size=40)
    lines = "".join(f"{a!r},{b!r},{c!r}\n" for (a, b), c in zip(x.tolist(), y.tolist(), strict=True))
    (tmp_path / "t.csv").write_text(f"a,b,y\n{lines}")
    np.savez(tmp_path / "t.npz", x=x, y=y)
    table = from_csv(str(tmp_path / "t.csv"), "y", task="regression")
    arrays = from_npz(str(tmp_path / "t.npz"), task="regression")
    for splits in (table, arrays):
        pairs = {
            (*row.tolist(), float(target))
            for part in (splits.train, splits.val, splits.test)
            for row, target in zip(part.x, part.y, strict=True)
        }
        assert pairs == {(*row, target) for row, target in zip(x.tolist(), y.tolist(), strict=True)}
        assert (splits.num_classes, splits.num_outputs) == (None, 1)


@pytest.mark.parametrize(
    ("y", "told"),
    [
        ([1.0, float("nan"), 2.0], "1 of 3 are not, the first in sample 1, nan"),
        ([1.0, 1e39, 2.0], "the first in sample 1, 1e\\+39"),
        ([2.0, 2.0, 2.0], "all 3 targets are 2"),
    ],
)
def test_targets_that_cannot_be_learned_are_refused(y, told) -> None:
    bad = Split(torch.randn(3, 2), torch.tensor(y, dtype=torch.float64))
    good = Split(torch.randn(3, 2), torch.arange(3.0))
    with pytest.raises(UserError, match=told):
        Splits(good, bad, good, None)


def test_data_of_the_other_task_and_a_wrong_objective_are_refused(train) -> None:
    for arguments, told in (
        (["task=regression", "data=digits"], "`task` must be 'classification' for these data"),
        (["data=diabetes"], "add task=regression"),
        (["task=regression", "objective=val_accuracy"], "must be 'val_r2' or 'val_loss' with task=regression"),
        (["task=ranking"], "task"),
    ):
        refused = train(*arguments)
        assert refused.exit_code == 2
        assert told in refused.stderr
