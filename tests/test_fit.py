"""A run from config to folder, and back."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from tiny import tiny
from torch import nn

import bnlab
from bnlab.config.build import build_network
from bnlab.data import Batches, EpochOrder, Normalization, digits
from bnlab.engines.fit import fit
from bnlab.errors import UserError
from bnlab.evaluate import evaluate

QUIET = Console(quiet=True)


def metrics_but_times(folder: Path) -> list[str]:
    rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    assert rows[0][-1] == "seconds"
    return [",".join(row[:-1]) for row in rows]


def test_training_equals_a_loop_by_hand(quick_config: Callable[..., DictConfig], tmp_path: Path) -> None:
    """The oracle: the same network, batches and rule in plain PyTorch, with torch's batch norm, in float64."""
    overrides = [
        "optimizer=momentum",
        "optimizer.lr=0.03",
        "trainer.precision=64-true",
        "scheduler=exponential",
        "seed=7",
    ]
    config = quick_config(*overrides, "norm.momentum=0.2")
    fit(config, tmp_path / "run", console=QUIET)

    splits = digits()
    splits = Normalization.of(splits.train).of_splits(splits)
    network = build_network(quick_config(*overrides, "norm=torch", "norm.momentum=0.2"), (1, 8, 8), 10).double()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.03, momentum=0.9)
    order = EpochOrder(len(splits.train), seed=7)
    val_x, val_y = splits.val.x.double(), splits.val.y
    for epoch, losses in enumerate(([], []), start=1):
        network.train()
        order.set_epoch(epoch - 1)
        for x, y in Batches(splits.train, 64, order):
            loss = F.cross_entropy(network(x.double()), y)
            losses.append(float(loss.detach()) * len(y))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        optimizer.param_groups[0]["lr"] *= 0.95
        network.eval()
        with torch.no_grad():
            logits = network(val_x)
        row = {name: values[epoch - 1] for name, values in bnlab.load(tmp_path / "run").metrics.items()}
        assert row["train_loss"] == pytest.approx(sum(losses) / len(splits.train), rel=1e-9)
        assert row["val_loss"] == pytest.approx(float(F.cross_entropy(logits, val_y)), rel=1e-9)
        assert row["val_accuracy"] == float((logits.argmax(1) == val_y).double().mean())
        assert row["lr"] == pytest.approx(0.03 * 0.95 ** (epoch - 1))
        assert row["step"] == 17 * epoch


def test_same_seed_gives_the_same_metrics_and_another_seed_others(
    quick_config: Callable[..., DictConfig], tmp_path: Path
) -> None:
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        torch.rand(len(name))  # what was drawn before makes no difference
        fit(quick_config(f"seed={seed}"), tmp_path / name, console=QUIET)
    assert metrics_but_times(tmp_path / "first") == metrics_but_times(tmp_path / "again")
    assert metrics_but_times(tmp_path / "first") != metrics_but_times(tmp_path / "other")


def test_initial_weights_depend_on_the_seed_alone_and_leave_the_generator_alone(
    quick_config: Callable[..., DictConfig],
) -> None:
    config = quick_config("seed=0")
    torch.manual_seed(99)
    expected_next = torch.rand(3)
    torch.manual_seed(99)
    first = build_network(config, (1, 8, 8), 10).state_dict()
    assert torch.equal(torch.rand(3), expected_next)
    again = build_network(config, (1, 8, 8), 10).state_dict()
    other = build_network(quick_config("seed=1"), (1, 8, 8), 10).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["1.weight"], other["1.weight"])


def test_folder_holds_what_the_design_lists(quick_config: Callable[..., DictConfig], tmp_path: Path) -> None:
    summary = fit(quick_config(), tmp_path / "run", overrides=["trainer.max_epochs=2"], console=QUIET)
    files = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert files == {
        "config.yaml",
        "overrides.yaml",
        "metrics.csv",
        "summary.json",
        "curves.png",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
    }
    assert json.loads((tmp_path / "run/summary.json").read_text()) == summary
    assert summary["command"] == "python -m bnlab.train trainer.max_epochs=2"
    assert summary["status"] == "completed"
    assert summary["seed"] == 0
    assert summary["samples_per_second"] > 0
    assert summary["versions"]["torch"] == torch.__version__.partition("+")[0]
    # 64 x 100 + 2 x 100 x 100 weights without bias, 3 batch norms of 2 x 100, 100 x 10 + 10 of the output
    assert summary["parameters"] == 6400 + 20000 + 600 + 1010
    resolved = OmegaConf.to_container(quick_config(), resolve=True)
    assert OmegaConf.to_container(OmegaConf.load(tmp_path / "run/config.yaml")) == resolved


def test_a_run_read_back_is_the_best_network(quick_config: Callable[..., DictConfig], tmp_path: Path) -> None:
    summary = fit(quick_config("trainer.max_epochs=6"), tmp_path / "run", console=QUIET)
    run = bnlab.load(tmp_path / "run")
    assert run.summary == summary
    val = run.metrics["val_accuracy"]
    assert summary["best_epoch"] == val.index(max(val)) + 1
    assert summary["objective"] == summary["val_accuracy"] == max(val)
    splits = digits()
    assert run.normalization is not None
    with torch.no_grad():
        logits = run.network(run.normalization(splits.test.x))
    assert float((logits.argmax(1) == splits.test.y).double().mean()) == summary["test_accuracy"]
    assert float(F.cross_entropy(logits, splits.test.y)) == pytest.approx(summary["test_loss"], rel=1e-6)


def test_evaluate_gives_the_test_metrics_to_the_last_digit(
    quick_config: Callable[..., DictConfig], tmp_path: Path
) -> None:
    summary = fit(quick_config("norm.placement=after", "optimizer=rmsprop"), tmp_path / "run", console=QUIET)
    assert evaluate(tmp_path / "run") == {name: summary[name] for name in ("test_loss", "test_accuracy")}


def test_a_run_in_double_precision_is_read_back_in_it(quick_config: Callable[..., DictConfig], tmp_path: Path) -> None:
    summary = fit(quick_config("trainer.precision=64-true"), tmp_path / "run", console=QUIET)
    assert evaluate(tmp_path / "run") == {name: summary[name] for name in ("test_loss", "test_accuracy")}
    run = bnlab.load(tmp_path / "run")
    assert run.normalization is not None
    with torch.no_grad():
        loss = F.cross_entropy(run.network(run.normalization(digits().test.x)), digits().test.y)
    assert float(loss) == pytest.approx(summary["test_loss"], rel=1e-14)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw"])
@pytest.mark.parametrize("scheduler", ["constant", "step", "exponential", "inverse_time", "cosine"])
def test_checkpoints_load_with_weights_only(
    optimizer: str, scheduler: str, quick_config: Callable[..., DictConfig], tmp_path: Path
) -> None:
    config = quick_config(f"optimizer={optimizer}", f"scheduler={scheduler}", "trainer.max_steps=2")
    fit(config, tmp_path / "run", console=QUIET)
    for name in ("best", "last"):
        checkpoint = torch.load(tmp_path / f"run/checkpoints/{name}.ckpt", weights_only=True)
        assert "optimizer_states" in checkpoint


def test_objective_val_loss_picks_the_lowest(quick_config: Callable[..., DictConfig], tmp_path: Path) -> None:
    config = quick_config("objective=val_loss", "trainer.max_epochs=5", "optimizer.lr=0.05")
    summary = fit(config, tmp_path / "run", console=QUIET)
    losses = bnlab.load(tmp_path / "run").metrics["val_loss"]
    assert summary["objective"] == min(losses)
    assert summary["best_epoch"] == losses.index(min(losses)) + 1


def test_full_batch_takes_one_step_an_epoch(quick_config: Callable[..., DictConfig], tmp_path: Path) -> None:
    assert fit(quick_config("data.batch_size=full"), tmp_path / "run", console=QUIET)["steps"] == 2


def test_max_steps_in_mid_epoch_still_validates(quick_config: Callable[..., DictConfig], tmp_path: Path) -> None:
    summary = fit(quick_config("trainer.max_steps=20"), tmp_path / "run", console=QUIET)
    run = bnlab.load(tmp_path / "run")
    assert run.metrics["step"] == [17, 20]
    assert summary["steps"] == 20
    assert run.metrics["val_loss"][0] != run.metrics["val_loss"][1]


def test_last_batch_of_one_sample_trains(quick_config: Callable[..., DictConfig], tmp_path: Path) -> None:
    assert len(digits().train) % 269 == 1
    summary = fit(quick_config("data.batch_size=269"), tmp_path / "run", console=QUIET)
    assert summary["status"] == "completed"
    assert summary["steps"] == 2 * 4


def test_divergence_is_a_result(quick_config: Callable[..., DictConfig], tmp_path: Path) -> None:
    config = quick_config("norm=none", "optimizer=sgd", "optimizer.lr=1e6", "trainer.max_epochs=9")
    summary = fit(config, tmp_path / "run", console=QUIET)
    assert summary["status"] == "diverged"
    assert summary["epochs"] == summary["diverged_epoch"] < 9
    assert summary["objective"] is None
    assert not (tmp_path / "run/checkpoints/best.ckpt").exists()
    json.loads((tmp_path / "run/summary.json").read_text(), parse_constant=pytest.fail)  # no NaN: not JSON


def test_an_earlier_best_survives_divergence(quick_config: Callable[..., DictConfig], tmp_path: Path) -> None:
    """StepLR with a huge gamma: two good epochs, then a learning rate that ruins the network."""
    config = quick_config(
        "norm=none",
        "optimizer=sgd",
        "scheduler=step",
        "scheduler.step_size=2",
        "scheduler.gamma=1e9",
        "trainer.max_epochs=9",
    )
    summary = fit(config, tmp_path / "run", console=QUIET)
    assert summary["status"] == "diverged"
    assert summary["best_epoch"] in (1, 2)
    assert summary["test_accuracy"] == evaluate(tmp_path / "run")["test_accuracy"] > 0.5


def test_a_folder_with_a_run_is_never_written_over(quick_config: Callable[..., DictConfig], tmp_path: Path) -> None:
    fit(quick_config(), tmp_path / "run", console=QUIET)
    before = (tmp_path / "run/summary.json").read_text()
    with pytest.raises(UserError, match="already holds a run"):
        fit(quick_config("seed=1"), tmp_path / "run", console=QUIET)
    assert (tmp_path / "run/summary.json").read_text() == before


def test_what_fails_leaves_a_folder_that_says_so(quick_config: Callable[..., DictConfig], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="samples of the training set"):
        fit(quick_config("data.batch_size=5000"), tmp_path / "run", console=QUIET)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["status"] == "failed"
    assert "5000" in summary["error"]
    with pytest.raises(UserError, match=r"it failed .*5000"):
        bnlab.load(tmp_path / "run")


class TwoLayers(nn.Module):
    """A network of a user's own, as the README tells how to write one."""

    def __init__(self, input_shape, num_classes, *, width, norm=None, placement="before") -> None:
        super().__init__()
        self.first = nn.Conv2d(input_shape[0], width, 3)
        self.last = nn.LazyLinear(num_classes)
        self.last(torch.zeros(1, width * (input_shape[1] - 2) * (input_shape[2] - 2)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x).relu().flatten(1))


def test_own_network_data_optimizer_and_callback_go_in_by_target(tmp_path: Path) -> None:
    config = bnlab.compose(["trainer.max_epochs=2", "trainer.accelerator=cpu", "norm=none"])
    here = f"{__name__}."
    config.model = {"_target_": here + "TwoLayers", "width": 4}
    config.data = {"_target_": here + "own_data", "samples": 64, "batch_size": 16, "normalize": True}
    config.optimizer = {"_target_": "torch.optim.Adagrad", "lr": 0.01}
    config.callbacks = {
        "stop": {
            "_target_": "lightning.pytorch.callbacks.EarlyStopping",
            "monitor": "val_loss",
            "patience": 0,
            "mode": "max",
        }
    }
    summary = fit(config, tmp_path / "run", console=QUIET)
    assert summary["epochs"] == 2
    assert bnlab.load(tmp_path / "run", trust=True).network.first.out_channels == 4


def own_data(samples: int):
    from bnlab.data import Split, Splits

    x = torch.randn(samples, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    split = Split(x, (x.mean((1, 2, 3)) > 0).long())
    return Splits(split, split, split, num_classes=2)


@pytest.mark.filterwarnings("default")  # the loggers' own dependencies deprecate each other
@pytest.mark.parametrize("logger", ["tensorboard", "mlflow"])
def test_loggers_get_the_metrics(
    logger: str, quick_config: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkdir("outputs")
    fit(quick_config(f"logger={logger}"), tmp_path / "run", console=QUIET)
    expected = bnlab.load(tmp_path / "run").metrics["val_accuracy"]
    if logger == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(tmp_path / "run/tensorboard"))
        events.Reload()
        logged = [event.value for event in events.Scalars("val_accuracy")]
    else:
        import mlflow

        client = mlflow.MlflowClient("sqlite:///outputs/mlflow.db")
        (run,) = client.search_runs([client.get_experiment_by_name("bnlab").experiment_id])
        logged = [metric.value for metric in client.get_metric_history(run.info.run_id, "val_accuracy")]
    assert logged == pytest.approx(expected)
    assert (tmp_path / "run/metrics.csv").exists()


def test_wandb_gets_the_metrics(tmp_path: Path) -> None:
    """Offline and in a process of its own: its service is started by one and outlives the test otherwise."""
    command = ["logger=wandb", "logger.offline=true", "trainer.max_epochs=2", "hydra.run.dir=run"]
    subprocess.run([sys.executable, "-m", "bnlab.train", *command], cwd=tmp_path, check=True, capture_output=True)
    (record,) = (tmp_path / "run/wandb").glob("offline-run-*/*.wandb")
    for name in (b"val_accuracy", b"test_accuracy", b"placement"):
        assert name in record.read_bytes()


def test_curves_show_every_epoch_of_both_splits(quick_config: Callable[..., DictConfig], tmp_path: Path) -> None:
    from bnlab.config.description import describe
    from bnlab.figures import curves

    fit(quick_config(), tmp_path / "run", console=QUIET)
    assert (tmp_path / "run/curves.png").read_bytes().startswith(b"\x89PNG")
    metrics = bnlab.load(tmp_path / "run").metrics
    figure = curves(metrics, describe(quick_config()), best_epoch=2)
    assert figure.get_suptitle().startswith(
        "digits, MLP 100-100-100 relu, BatchNorm1d before activation, Adam lr 0.002"
    )
    for axes, quantity in zip(figure.axes, ("loss", "accuracy"), strict=True):
        lines = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
        assert lines["train"] == metrics[f"train_{quantity}"]
        assert lines["val"] == metrics[f"val_{quantity}"]
        assert axes.get_legend() is not None
    assert not math.isnan(metrics["val_loss"][-1])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+trainer.max_time={seconds: 0}"], "No epoch was trained"),
        (["+trainer.limit_train_batches=0.01"], "at least one of the 4 batches, but got 0.01"),
        (["+trainer.limit_test_batches=0.5"], "at least one of the 1 batches, but got 0.5"),
        (
            ["optimizer._target_=torch.optim.SparseAdam", "~optimizer.weight_decay", "~optimizer.fused"],
            "dense gradients",
        ),
        (["optimizer._target_=builtins.dict"], "must make an optimizer of torch's, but builtins.dict does not"),
        (["scheduler._target_=builtins.dict"], "must make a schedule of torch's, but builtins.dict does not"),
        (["+optimizer.betas=[0.5,0.9]"], "`optimizer.betas` must be left out"),
        (["+trainer.strategy=auto", "+trainer.plugins={_target_: nowhere.Plugin}"], "`trainer`: "),
    ],
)
def test_what_would_fail_at_the_first_step_or_after_the_last_is_refused_before(overrides, message, tmp_path) -> None:
    with pytest.raises(UserError, match=message) as error:
        fit(tiny(*overrides), tmp_path / "run", console=QUIET)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run/metrics.csv").exists()


def test_several_processes_are_refused_however_lightning_was_told_of_them(tmp_path, monkeypatch) -> None:
    """Lightning reads its arguments from variables, too."""
    monkeypatch.setenv("PL_TRAINER_STRATEGY", "ddp")
    with pytest.raises(UserError, match="one process on one device, but got 1 devices and DDPStrategy"):
        fit(tiny(), tmp_path / "run", console=QUIET)


def test_a_schedule_that_ends_before_the_training_is_refused(tmp_path) -> None:
    config = tiny("scheduler=constant")
    config.scheduler = {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "max_lr": 0.1, "total_steps": 2}
    with pytest.raises(UserError, match="at least the 3 epochs of the training"):
        fit(config, tmp_path / "run", console=QUIET)


def test_minimum_lengths_hold_early_stopping_back_but_no_divergence_and_no_last_step(tmp_path) -> None:
    fit(tiny("+trainer.min_epochs=5", "trainer.max_epochs=9", "trainer.max_steps=6"), tmp_path / "steps", console=QUIET)
    run = bnlab.load(tmp_path / "steps")
    assert run.metrics["step"] == [4, 6]
    overrides = ["norm=none", "optimizer=sgd", "optimizer.lr=1e30", "+trainer.min_steps=7"]
    summary = fit(tiny(*overrides), tmp_path / "diverged", console=QUIET)
    assert (summary["diverged_epoch"], summary["epochs"]) == (1, 1)
    config = tiny("+trainer.min_epochs=2")
    config.callbacks = {
        "stop": {
            "_target_": "lightning.pytorch.callbacks.EarlyStopping",
            "monitor": "val_loss",
            "stopping_threshold": 99,
        }
    }
    assert fit(config, tmp_path / "stopped", console=QUIET)["epochs"] == 2


@pytest.fixture(scope="module")
def plain_metrics(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("plain") / "run"
    fit(tiny(), folder, console=QUIET)
    return metrics_but_times(folder)


@pytest.mark.parametrize(
    ("override", "steps"),
    [
        ("+trainer.accumulate_grad_batches=3", [2, 4, 6]),
        ("+trainer.limit_train_batches=0.5", [2, 4, 6]),
        ("+trainer.reload_dataloaders_every_n_epochs=1", [4, 8, 12]),
        ("+trainer.num_sanity_val_steps=1", [4, 8, 12]),
        ("+trainer.inference_mode=false", [4, 8, 12]),
    ],
)
def test_arguments_of_lightnings_trainer_mean_what_lightning_says(override, steps, plain_metrics, tmp_path) -> None:
    """Equal numbers of steps: equal curves, but where the batches of a step are others."""
    fit(tiny(override), tmp_path / "run", console=QUIET)
    run = bnlab.load(tmp_path / "run")
    assert run.metrics["step"] == steps
    if steps == [4, 8, 12]:
        assert metrics_but_times(tmp_path / "run") == plain_metrics
    assert evaluate(tmp_path / "run", trust=True)["test_loss"] == run.summary["test_loss"]


def test_a_run_says_nothing_of_slurm_where_that_is_installed(tmp_path, monkeypatch) -> None:
    """A warning would be an error here."""
    (tmp_path / "bin").mkdir()
    srun = tmp_path / "bin/srun"
    srun.write_text("#!/bin/sh\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", str(srun.parent), prepend=os.pathsep)
    fit(tiny(), tmp_path / "run", console=QUIET)
