"""What a user adds in one file, `own_stack.py`, trains in stacks as it trains alone."""

import pydoc
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from own_stack import Lion, LionInStacks, Shrink, ShrinkInStacks
from stacked_oracle import alone, configs_of, stacked
from torch import nn

from bnlab.engines.fit import fit
from bnlab.network import MLP
from bnlab.stacked import LAYERS, StackedOptimizer, grouping, train
from bnlab.stacked.formulas.layers import BatchNorm
from bnlab.stacked.networks.mlp import StackedMLP

EACH = [
    {"optimizer.lr": 1e-3, "optimizer.beta1": 0.9, "optimizer.weight_decay": 0.1},
    {"optimizer.lr": 3e-3, "optimizer.beta1": 0.8, "optimizer.weight_decay": 0.0},
]


def own(*widths: float) -> list[DictConfig]:
    configs = configs_of(["trainer.precision=64-true", "trainer.max_epochs=2"], EACH)
    for seed, config in enumerate(configs):
        config.seed = seed
        config.optimizer = {"_target_": "own_stack.Lion", "lr": 0.1, "beta1": 0.9, "beta2": 0.99} | {
            key.removeprefix("optimizer."): value for key, value in EACH[seed].items()
        }
        config.norm = {"_target_": "own_stack.Shrink", "placement": "after", "width": widths[seed]}
    return configs


def test_an_optimizer_and_a_layer_of_a_users_own_have_the_curves_that_they_have_alone(monkeypatch) -> None:
    steps: list[str] = []
    for kind, name in ((LionInStacks, "step"), (ShrinkInStacks, "backward")):
        true = getattr(kind, name)
        monkeypatch.setattr(kind, name, lambda *args, true=true, name=name: (steps.append(name), true(*args))[1])
    configs = own(1.0, 3.0)
    for config, trial in zip(configs, stacked(configs), strict=True):
        columns = trial.history.columns()
        for name, values in alone(config).items():
            assert columns[name] == pytest.approx(values, rel=1e-9, abs=1e-12), name
    assert {"step", "backward"} == set(steps)


def test_a_layer_of_a_users_own_has_the_gradients_of_autograd() -> None:
    torch.manual_seed(0)
    networks = [
        MLP(5, 3, hidden=[4, 6], norm=lambda width, k=k: Shrink(width, 1.0 + k), placement="after").double()
        for k in range(3)
    ]
    assert all(map(StackedMLP.takes, networks))
    stack = StackedMLP(networks)
    x, y = torch.randn(3, 7, 5, dtype=torch.float64), torch.randint(3, (3, 7))
    stack.step(x, y)
    for index, network in enumerate(networks):
        nn.functional.cross_entropy(network(x[index]), y[index]).backward()
        expected = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
        torch.testing.assert_close(stack.stack.gradients[index], expected, rtol=1e-12, atol=1e-14)


def test_an_optimizer_of_a_users_own_goes_on_alone_from_the_state_of_the_stack() -> None:
    rows, gradients = torch.randn(2, 4), torch.empty(2, 4)
    weights = [nn.Parameter(row.clone()) for row in rows]
    optimizers = [
        Lion([weight], lr=lr, betas=(0.9, beta2))
        for weight, lr, beta2 in zip(weights, (0.1, 0.2), (0.9, 0.5), strict=True)
    ]
    stack = StackedOptimizer(optimizers, rows, gradients)
    for _ in range(5):
        drawn = torch.randn(2, 4)
        gradients.copy_(drawn)
        stack.step()
        for weight, gradient, optimizer in zip(weights, drawn, optimizers, strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    for index, (weight, optimizer) in enumerate(zip(weights, optimizers, strict=True)):
        torch.testing.assert_close(rows[index], weight.detach())
        own_state = optimizer.state_dict()
        state = stack.state_dict(index, {"weight": weight.shape})
        assert state["param_groups"] == own_state["param_groups"]
        torch.testing.assert_close(state["state"], own_state["state"])
        optimizer.load_state_dict(state)


@pytest.mark.slow
def test_worker_processes_train_what_a_user_adds_in_a_stack_as_lightning_does_alone(tmp_path: Path) -> None:
    configs = own(2.0, 2.0)
    summaries = train(configs, tmp_path / "stack", num_workers=1)
    for number, (config, summary) in enumerate(zip(configs, summaries, strict=True)):
        expected = fit(config, tmp_path / "alone" / str(number))
        assert summary["status"] == "completed"
        assert "alone" not in (tmp_path / "stack" / str(number) / "train.log").read_text()
        for name in ("val_loss", "test_loss", "test_accuracy"):
            assert summary[name] == pytest.approx(expected[name], rel=1e-6), name


def test_the_norms_whose_numbers_may_differ_in_a_stack_are_those_of_the_layer_table() -> None:
    """The table needs torch, which whoever groups jobs does not import: so the names stand there a second time."""
    named = {pydoc.locate(name) for name in grouping._NORMS}
    assert named == {module for module, layer in LAYERS.items() if issubclass(layer, BatchNorm)}
