import math

import pytest
import torch
from torch import nn

from bnlab.composing import compose
from bnlab.training.optimizer import build_optimizer, build_scheduler

WEIGHT, GRADIENTS = 2.0, (0.5, -0.3)


def two_steps_by_hand(name: str, lr: float, decay: float) -> float:
    """The update rules as published, in plain floats, each step with its own gradient."""
    w, v, s = WEIGHT, 0.0, 0.0
    for t, gradient in enumerate(GRADIENTS, start=1):
        if name == "adamw":
            w -= lr * decay * w
        g = gradient + (0 if name == "adamw" else decay * w)
        if name == "sgd":
            w -= lr * g
        elif name in ("momentum", "nesterov"):
            v = g if t == 1 else 0.8 * v + g
            w -= lr * (g + 0.8 * v if name == "nesterov" else v)
        elif name == "rmsprop":
            s = 0.7 * s + 0.3 * g * g
            w -= lr * g / (math.sqrt(s) + 1e-3)
        else:
            v = 0.6 * v + 0.4 * g
            s = 0.7 * s + 0.3 * g * g
            w -= lr * (v / (1 - 0.6**t)) / (math.sqrt(s / (1 - 0.7**t)) + 1e-3)
    return w


SCALARS = {
    "sgd": [],
    "momentum": ["optimizer.momentum=0.8"],
    "nesterov": ["optimizer.momentum=0.8"],
    "rmsprop": ["optimizer.alpha=0.7", "optimizer.eps=1e-3"],
    "adam": ["optimizer.beta1=0.6", "optimizer.beta2=0.7", "optimizer.eps=1e-3"],
    "adamw": ["optimizer.beta1=0.6", "optimizer.beta2=0.7", "optimizer.eps=1e-3"],
}


@pytest.mark.parametrize("name", SCALARS)
def test_two_steps_equal_the_published_rule_by_hand(name: str) -> None:
    overrides = [f"optimizer={name}", "optimizer.lr=0.05", "optimizer.weight_decay=0.1", *SCALARS[name]]
    parameter = nn.Parameter(torch.tensor([WEIGHT], dtype=torch.float64))
    optimizer = build_optimizer(compose(overrides).optimizer, [parameter])
    for gradient in GRADIENTS:
        parameter.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
    assert parameter.item() == pytest.approx(two_steps_by_hand(name, lr=0.05, decay=0.1), rel=1e-12)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["scheduler=constant"], lambda epoch: 1.0),
        (["scheduler=step", "scheduler.step_size=2", "scheduler.gamma=0.5"], lambda epoch: 0.5 ** (epoch // 2)),
        (["scheduler=exponential", "scheduler.gamma=0.9"], lambda epoch: 0.9**epoch),
        (["scheduler=inverse_time", "scheduler.decay_rate=0.3"], lambda epoch: 1 / (1 + 0.3 * epoch)),
        (["scheduler=cosine", "trainer.max_epochs=6"], lambda epoch: (1 + math.cos(math.pi * epoch / 6)) / 2),
    ],
    ids=["constant", "step", "exponential", "inverse_time", "cosine"],
)
def test_schedules_follow_their_formula(overrides: list[str], expected) -> None:
    config = compose([*overrides, "optimizer=sgd", "optimizer.lr=0.2"])
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = build_optimizer(config.optimizer, [parameter])
    scheduler = build_scheduler(config.scheduler, optimizer)
    for epoch in range(6):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2 * expected(epoch), rel=1e-9)
        parameter.grad = torch.zeros(1)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def test_every_gamma_and_beta_of_batch_norm_is_optimized() -> None:
    from bnlab.batch_norm import BatchNorm1d

    network = nn.Sequential(nn.Linear(3, 4, bias=False), BatchNorm1d(4))
    optimizer = build_optimizer(compose([]).optimizer, network.parameters())
    optimized = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert optimized == {id(parameter) for parameter in network.parameters()}
