"""A network of a stack against Lightning's training of it alone, over random settings."""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf, open_dict
from stacked_oracle import stacked
from tiny import tiny

from bnlab.config.build import build_network
from bnlab.errors import UserError
from bnlab.metrics import minimizes
from bnlab.runs.folder import RunFolder
from bnlab.stacked.grouping import group_key, why_alone
from bnlab.training.lightning.classifier import Classifier
from bnlab.training.lightning.fit import build_data, build_trainer
from bnlab.training.lightning.recorder import Recorder
from bnlab.training.optimizer import build_optimizer, build_scheduler

pytestmark = pytest.mark.filterwarnings("ignore:A `OneCycleLR` scheduler is using")

EPOCHS = 3
BASE = tiny("scheduler=constant", "trainer.precision=64-true", f"trainer.max_epochs={EPOCHS}")
RATES, BETAS = st.sampled_from([0.003, 0.02, 0.1]), st.sampled_from([0.0, 0.3, 0.9])
SQUARES = st.sampled_from([0.0, 0.3, 0.9, 0.999])
FLAGS = st.booleans()

# What each network has for itself, and what all networks of a stack share; mostly what has a stacked form.
OF_EACH: dict[str, dict[str, st.SearchStrategy]] = {
    "SGD": {"momentum": BETAS, "dampening": st.sampled_from([0, 0, 0.3])},
    "RMSprop": {"alpha": SQUARES, "eps": st.sampled_from([1e-8, 1e-3]), "momentum": BETAS},
    "Adam": {"beta1": BETAS, "beta2": SQUARES, "eps": st.sampled_from([1e-8, 1e-3])},
    "AdamW": {"beta1": BETAS, "beta2": SQUARES, "eps": st.sampled_from([1e-8, 1e-3])},
}
SHARED: dict[str, dict[str, st.SearchStrategy]] = {
    "SGD": {"nesterov": FLAGS, "maximize": FLAGS, "fused": FLAGS, "foreach": st.just(None)},
    "RMSprop": {"centered": FLAGS, "maximize": FLAGS, "foreach": FLAGS},
    "Adam": {"amsgrad": FLAGS, "maximize": FLAGS, "fused": FLAGS, "decoupled_weight_decay": FLAGS},
    "AdamW": {"amsgrad": FLAGS, "maximize": FLAGS, "foreach": FLAGS},
}
SCHEDULES: dict[str, dict[str, st.SearchStrategy]] = {
    "CosineAnnealingLR": {"T_max": st.integers(1, 4), "eta_min": st.sampled_from([0, 1e-3])},
    "CosineAnnealingWarmRestarts": {"T_0": st.integers(1, 2), "T_mult": st.integers(1, 2)},
    "CyclicLR": {
        "base_lr": st.just(0.01),
        "max_lr": st.just(0.05),
        "step_size_up": st.integers(1, 2),
        "mode": st.sampled_from(["triangular", "triangular2", "exp_range"]),
        "cycle_momentum": FLAGS,
        "base_momentum": st.sampled_from([0, 0.2]),
    },
    "ExponentialLR": {"gamma": st.just(0.7)},
    "LinearLR": {"total_iters": st.integers(1, 3)},
    "MultiStepLR": {"milestones": st.just([1, 2])},
    "OneCycleLR": {
        "max_lr": st.just(0.05),
        "total_steps": st.integers(EPOCHS - 1, EPOCHS + 2),
        "cycle_momentum": FLAGS,
        "three_phase": FLAGS,
    },
    "PolynomialLR": {"total_iters": st.integers(1, 3), "power": st.just(2.0)},
    "ReduceLROnPlateau": {
        "factor": st.just(0.3),
        "patience": st.integers(0, 1),
        "threshold": st.sampled_from([0.0, 0.5]),
        "threshold_mode": st.sampled_from(["rel", "abs"]),
        "cooldown": st.integers(0, 1),
        "min_lr": st.sampled_from([0, 0.01]),
    },
    "StepLR": {"step_size": st.integers(1, 2)},
}
NORMS = {
    "batch": "bnlab.batch_norm.BatchNorm1d",
    "torch": "torch.nn.BatchNorm1d",
    "ghost": "bnlab.batch_norm.GhostBatchNorm1d",
    "renorm": "bnlab.batch_norm.BatchRenorm1d",
}
OF_NORM: dict[str, dict[str, st.SearchStrategy]] = {
    "ghost": {"virtual_batch_size": st.sampled_from([2, 5, 32])},
    "renorm": {
        "r_max": st.sampled_from([1.0, 1.5, 3.0]),
        "d_max": st.sampled_from([0.0, 0.5, 5.0]),
        "ramp_start": st.sampled_from([0, 3]),
        "ramp_end": st.sampled_from([3, 9]),
    },
}


@st.composite
def pairs(draw: st.DrawFn) -> list[DictConfig]:
    """The configs of two networks of one group."""
    shared = BASE.copy()
    name = draw(st.sampled_from(sorted(OF_EACH)))
    with open_dict(shared):
        shared.optimizer = {"_target_": f"torch.optim.{name}"}
        for key in draw(st.sets(st.sampled_from(sorted(SHARED[name])), max_size=1)):
            shared.optimizer[key] = draw(SHARED[name][key])
        norm = draw(st.sampled_from([*NORMS, "none"]))
        if norm == "none":
            shared.norm = {"_target_": None}
        else:
            shared.norm = {"_target_": NORMS[norm], "placement": draw(st.sampled_from(["before", "after"]))}
            shared.norm.update({"eps": 1e-5, "momentum": draw(st.sampled_from([0.1, 0.1, None]))})
            shared.norm.update({"affine": draw(FLAGS), "track_running_stats": draw(FLAGS)})
            shared.norm.update({key: draw(strategy) for key, strategy in OF_NORM.get(norm, {}).items()})
        shared.model.bias = draw(st.sampled_from(["auto", True]))
        shared.model.activation = draw(st.sampled_from(["relu", "tanh"]))
        shared.data.batch_size = draw(st.sampled_from([7, 16, 59, "full"]))
        shared.trainer.max_steps = draw(st.sampled_from([-1, -1, 5]))
        shared.trainer.gradient_clip_val = draw(st.sampled_from([None, 0.1]))
        shared.trainer.gradient_clip_algorithm = draw(st.sampled_from(["norm", "value", None]))
        configs = []
        for _ in range(2):
            config = shared.copy()
            config.seed = draw(st.integers(0, 3))
            config.optimizer.update({"lr": draw(RATES), "weight_decay": draw(st.sampled_from([0, 0.1]))})
            config.optimizer.update({key: draw(strategy) for key, strategy in OF_EACH[name].items()})
            if norm in ("batch", "torch") and shared.norm.momentum is not None:
                config.norm.eps, config.norm.momentum = draw(st.sampled_from([(1e-5, 0.1), (0.1, 1.0)]))
            config.scheduler = draw(schedules())
            config.callbacks = draw(callbacks())
            configs.append(config)
    return configs


@st.composite
def schedules(draw: st.DrawFn) -> dict[str, Any]:
    name = draw(st.sampled_from([None, *sorted(SCHEDULES)]))
    if name is None:
        return {"_target_": None}
    arguments = {key: draw(strategy) for key, strategy in SCHEDULES[name].items()}
    return {"_target_": f"torch.optim.lr_scheduler.{name}", **arguments}


@st.composite
def callbacks(draw: st.DrawFn) -> dict[str, Any]:
    if draw(FLAGS):
        return {}
    arguments = {
        "monitor": draw(st.sampled_from(["train_loss", "train_accuracy", "val_loss", "val_accuracy"])),
        "mode": draw(st.sampled_from(["min", "max"])),
        "patience": draw(st.integers(0, 2)),
        "min_delta": draw(st.sampled_from([-0.1, 0.0, 0.01])),
        "stopping_threshold": draw(st.sampled_from([None, 0.5])),
        "divergence_threshold": draw(st.sampled_from([None, 0.8])),
        "strict": draw(FLAGS),
        "check_on_train_epoch_end": draw(st.sampled_from([None, True, False])),
    }
    return {"stop": {"_target_": "lightning.pytorch.callbacks.EarlyStopping", **arguments}}


Alone = tuple[Recorder, dict[str, Any], dict[str, Any]]


def alone(config: DictConfig, folder: Path, start: float = 1.0) -> Alone:
    """The history, and best.ckpt and last.ckpt, as `bnlab.engines.fit.fit` has them, without figure and test.

    The initial parameters are multiplied by `start`.
    """
    run = RunFolder(folder)
    run.create(config, ())
    data = build_data(config)
    network = build_network(config, data.splits.sample_shape, data.splits.num_classes)
    with torch.no_grad():
        for parameter in network.double().parameters():
            parameter.mul_(start)
    recorder = Recorder(run, config.objective, minimize=minimizes(config))
    trainer = build_trainer(config, run, [recorder])
    make = partial(build_optimizer, config.optimizer), partial(build_scheduler, config.scheduler)
    trainer.fit(Classifier(network, *make), data)
    best = torch.load(run.best_checkpoint, weights_only=True) if recorder.best else {}
    return recorder, best, torch.load(run.last_checkpoint, weights_only=True)


def check_same(own: Any, expected: Any, where: str, moved: Any) -> None:
    """`moved` is what an ulp in the start makes of `expected`: rounding may move the stack ten times as far."""
    if isinstance(expected, dict):
        assert own.keys() == expected.keys(), where
        for key in expected:
            check_same(own[key], expected[key], f"{where}.{key}", moved[key])
    elif isinstance(expected, list | tuple):
        assert len(own) == len(expected), where
        for index, (one, other) in enumerate(zip(own, expected, strict=True)):
            check_same(one, other, f"{where}.{index}", moved[index])
    elif isinstance(expected, torch.Tensor):
        assert own.dtype == expected.dtype, where
        atol = 1e-8 + 10 * distance(moved, expected)
        torch.testing.assert_close(own, expected, rtol=1e-6, atol=atol, equal_nan=True, msg=lambda text: where + text)
    elif isinstance(expected, float):
        atol = 1e-8 + 10 * distance(torch.tensor(moved), torch.tensor(expected))
        assert own == pytest.approx(expected, rel=1e-6, abs=atol, nan_ok=True), where
    else:
        assert own == expected, where


def distance(moved: torch.Tensor, expected: torch.Tensor) -> float:
    if not expected.is_floating_point() or expected.numel() == 0:
        return 0.0
    return float((moved - expected).nan_to_num(0, 0, 0).abs().max())


def check_case(configs: list[DictConfig], index: int) -> None:
    plain: list[Any] = [OmegaConf.to_container(config, resolve=True) for config in configs]
    reasons = [why_alone(config) for config in plain]
    if any(reasons):
        checks = (callback["check_on_train_epoch_end"] for config in plain for callback in config["callbacks"].values())
        assert False in checks, reasons  # all else that is drawn is for the optimizer to refuse
        return
    assert group_key(plain[0]) == group_key(plain[1])
    with tempfile.TemporaryDirectory() as folder:
        try:
            trial = stacked(configs, Path(folder, "stacked"))[index]
        except UserError as error:
            refusal = str(error)
        else:
            refusal = ""
        if refusal:
            assert any(
                text in refusal for text in ("stacked form", "`optimizer`, `scheduler`", "`scheduler.total_steps`")
            )
            return
        expected = alone(configs[index], Path(folder, "alone"))
        trial.write_progress()
        try:
            check_trial(trial, expected, expected)
        except AssertionError:
            # A gradient that is zero but for rounding, as of a bias that batch norm subtracts, may be divided by its
            # own size: such an update is rounding alone, and differs as much where nothing but an ulp does.
            check_trial(trial, expected, alone(configs[index], Path(folder, "moved"), start=1 + 2**-52))


def check_trial(trial: Any, expected: Alone, moved: Alone) -> None:
    (recorder, best, last), (recorder_moved, best_moved, last_moved) = expected, moved
    assert (trial.history.diverged_epoch, trial.history.best_epoch) == (recorder.diverged_epoch, recorder.best_epoch)
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in trial.history.rows]
    alike = [[{key: row[key] for key in rows[0]} for row in one.rows] for one in (recorder, recorder_moved)]
    check_same(rows, alike[0], "metrics", alike[1])
    for path, whole, other in (
        (trial.run.best_checkpoint, best, best_moved),
        (trial.run.last_checkpoint, last, last_moved),
    ):
        if whole:
            own = torch.load(path, weights_only=True)
            for part in ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers"):
                check_same(own[part], whole[part], f"{path.name}: {part}", other[part])


# What fails is not made smaller: that takes minutes.
BOUNDED = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@settings(BOUNDED, max_examples=12)
@given(configs=pairs(), index=st.integers(0, 1))
def test_a_stack_trains_as_lightning_does_or_says_why_not(configs: list[DictConfig], index: int) -> None:
    check_case(configs, index)


@pytest.mark.slow
@settings(BOUNDED, max_examples=600)
@given(configs=pairs(), index=st.integers(0, 1))
def test_a_stack_trains_as_lightning_does_or_says_why_not_in_hundreds_of_cases(configs, index: int) -> None:
    check_case(configs, index)
