"""K optimizers as one, against torch.optim's on each network alone."""

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    SequentialLR,
    StepLR,
)

from bnlab.errors import UserError
from bnlab.stacked.networks.optimizers import StackedOptimizer, clip_gradients, why_not_stacked
from bnlab.stacked.networks.update_rules import UPDATE_RULES

SHAPES = {"weight": torch.Size([3, 4]), "bias": torch.Size([3]), "scale": torch.Size([])}
SIZE = 16

# Each network its own numbers.
SETTINGS: dict[str, tuple[type[Optimizer], list[dict]]] = {
    "sgd": (SGD, [{"lr": 0.1}, {"lr": 1e-3, "weight_decay": 0.1}, {"lr": 0.02}]),
    "momentum": (SGD, [{"lr": 0.1, "momentum": 0.9}, {"lr": 0.01, "momentum": 0.0}, {"lr": 0.02, "momentum": 0.5}]),
    "dampening": (
        SGD,
        [{"lr": 0.1, "momentum": 0.9, "dampening": 0.3}, {"lr": 0.01, "dampening": 0.5}, {"lr": 0.02, "momentum": 0.5}],
    ),
    "nesterov": (
        SGD,
        [
            {"lr": lr, "momentum": m, "nesterov": True, "weight_decay": d}
            for lr, m, d in ((0.1, 0.9, 0), (0.01, 0.3, 0.1))
        ],
    ),
    "rmsprop": (RMSprop, [{"lr": 1e-2, "alpha": 0.9}, {"lr": 1e-3, "alpha": 0.99, "weight_decay": 0.1, "eps": 1e-4}]),
    "rmsprop with momentum": (RMSprop, [{"lr": 1e-2, "momentum": 0.9}, {"lr": 1e-3}]),
    "adam": (Adam, [{"lr": 1e-2}, {"lr": 1e-3, "betas": (0.8, 0.9), "weight_decay": 0.1}, {"lr": 0.1, "eps": 1e-3}]),
    "adamw": (AdamW, [{"lr": 1e-2}, {"lr": 1e-3, "betas": (0.8, 0.9), "weight_decay": 0.1}, {"lr": 0.1, "eps": 1e-3}]),
}


class Networks:
    """K sets of parameters, alone and stacked, that get the same gradients, drawn anew for each step.

    Gradients of a function of the weights would not do: a learning rule that bounces about a minimum (RMSprop's
    constant stride) turns a difference in the last bit into one of 1e-4, in torch's own two implementations as well.
    """

    def __init__(self, name: str, *, fused: bool) -> None:
        kind, settings = SETTINGS[name]
        self.generator = torch.Generator().manual_seed(0)
        self.rows = torch.randn(len(settings), SIZE, dtype=torch.float64, generator=self.generator)
        sizes = [shape.numel() for shape in SHAPES.values()]
        self.alone = [
            [
                nn.Parameter(part.clone().view(shape))
                for part, shape in zip(row.split(sizes), SHAPES.values(), strict=True)
            ]
            for row in self.rows
        ]
        self.optimizers = [
            kind(parameters, **arguments) for parameters, arguments in zip(self.alone, settings, strict=True)
        ]
        self.gradients = torch.zeros_like(self.rows)
        self.stacked = StackedOptimizer(self.optimizers, self.rows, self.gradients, fused=fused)

    def draw(self) -> torch.Tensor:
        return torch.randn(self.rows.shape, dtype=torch.float64, generator=self.generator) + 0.5

    def step(self, clip: tuple[torch.Tensor, str] | None = None) -> None:
        gradients = self.draw()
        for index, (parameters, optimizer) in enumerate(zip(self.alone, self.optimizers, strict=True)):
            parts = gradients[index].split([p.numel() for p in parameters])
            for parameter, part in zip(parameters, parts, strict=True):
                parameter.grad = part.clone().view(parameter.shape)
            if clip is not None and clip[1] == "norm":
                nn.utils.clip_grad_norm_(parameters, float(clip[0][index]))
            elif clip is not None:
                nn.utils.clip_grad_value_(parameters, float(clip[0][index]))
            optimizer.step()
        self.gradients.copy_(gradients)
        if clip is not None:
            clip_gradients(self.gradients, *clip)
        self.stacked.step()

    def check(self) -> None:
        for parameters, row in zip(self.alone, self.rows, strict=True):
            expected = torch.cat([parameter.detach().flatten() for parameter in parameters])
            torch.testing.assert_close(row, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_thousand_steps_equal_torch_optim_to_1e_12(name: str, fused: bool) -> None:
    if fused and name.startswith("rmsprop"):
        pytest.skip("torch has no fused form of it")
    networks = Networks(name, fused=fused)
    start = networks.rows.clone()
    for _ in range(1000):
        networks.step()
    networks.check()
    assert (networks.rows - start).abs().amax(1).min() > 1e-2  # every one has moved


@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer, k: CosineAnnealingLR(optimizer, T_max=20 + k),
        lambda optimizer, k: StepLR(optimizer, step_size=3 + k, gamma=0.5),
        lambda optimizer, k: ExponentialLR(optimizer, gamma=0.9 + 0.01 * k),
        lambda optimizer, k: LambdaLR(optimizer, lambda epoch: 1 / (1 + 0.1 * (k + 1) * epoch)),
    ],
    ids=["cosine", "step", "exponential", "inverse_time"],
)
@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_each_network_follows_its_own_schedule(name: str, make) -> None:
    networks = Networks(name, fused=False)
    schedulers = [make(optimizer, k) for k, optimizer in enumerate(networks.optimizers)]
    for _ in range(20):
        for _ in range(5):
            networks.step()
        for scheduler in schedulers:
            scheduler.step()
        networks.stacked.read()
    networks.check()


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_clipping_of_each_network_by_itself_equals_torch(algorithm: str) -> None:
    networks = Networks("momentum", fused=False)
    limits = torch.tensor([[0.5], [1e6], [0.01]], dtype=torch.float64)
    for _ in range(200):
        networks.step((limits, algorithm))
    networks.check()


@pytest.mark.parametrize("name", SETTINGS)
def test_a_network_alone_goes_on_from_the_state_of_the_stack(name: str) -> None:
    networks = Networks(name, fused=False)
    for _ in range(10):
        networks.step()
    for index, optimizer in enumerate(networks.optimizers):
        own, stacked = optimizer.state_dict(), networks.stacked.state_dict(index, SHAPES)
        assert stacked["param_groups"] == own["param_groups"]
        for number, state in own["state"].items():
            for key, value in state.items():
                if value is None:  # torch's place for a momentum that is 0
                    continue
                torch.testing.assert_close(stacked["state"][number][key], value, rtol=1e-12, atol=1e-12)
        optimizer.load_state_dict(stacked)
    networks.step()
    networks.check()


def test_the_networks_that_stay_are_not_disturbed_by_the_one_that_leaves() -> None:
    networks, whole = Networks("adam", fused=True), Networks("adam", fused=True)
    for _ in range(10):
        networks.step()
        whole.step()
    rows = networks.rows[[0, 2]]
    gradients = torch.zeros_like(rows)
    networks.stacked.keep([0, 2], rows, gradients)
    for _ in range(10):
        gradients.copy_(networks.draw()[[0, 2]])
        networks.stacked.step()
        whole.step()
    assert torch.equal(rows, whole.rows[[0, 2]])


@pytest.mark.parametrize(
    ("optimizer", "reason"),
    [
        (Adagrad([nn.Parameter(torch.zeros(1))]), "Adagrad"),
        (Adam([nn.Parameter(torch.zeros(1))], amsgrad=True), "amsgrad=True"),
        (Adam([nn.Parameter(torch.zeros(1))], decoupled_weight_decay=True), "decoupled_weight_decay=True"),
        (Adam([nn.Parameter(torch.zeros(1))], lr=torch.tensor(0.1)), "lr=0.1"),
        (Adam([nn.Parameter(torch.zeros(1))], capturable=True), "capturable=True"),
        (AdamW([nn.Parameter(torch.zeros(1))], maximize=True), "maximize=True"),
        (SGD([nn.Parameter(torch.zeros(1))], differentiable=True), "differentiable=True"),
        (RMSprop([nn.Parameter(torch.zeros(1))], centered=True), "centered=True"),
        (SGD([{"params": [nn.Parameter(torch.zeros(1))]}, {"params": [nn.Parameter(torch.zeros(1))]}]), "several"),
    ],
    ids=["class", "amsgrad", "decoupled", "tensor", "capturable", "maximize", "differentiable", "centered", "groups"],
)
def test_what_has_no_stacked_form_says_so(optimizer: Optimizer, reason: str) -> None:
    assert reason in str(why_not_stacked(optimizer))
    with pytest.raises(ValueError, match=r"has no stacked form|has several"):
        StackedOptimizer([optimizer], torch.zeros(1, 1), torch.zeros(1, 1))


def test_networks_under_different_rules_are_no_stack() -> None:
    optimizers = [SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9, nesterov=each) for each in (True, False)]
    with pytest.raises(UserError, match="nesterov must be the same in a stack: True, False"):
        StackedOptimizer(optimizers, torch.zeros(2, 1), torch.zeros(2, 1))


def test_every_argument_of_torch_today_is_known_and_one_of_tomorrow_is_not_waved_through() -> None:
    for kind in [kind for kind in UPDATE_RULES if kind.__module__.startswith("torch.")]:  # not the own rules of tests
        optimizer = kind([nn.Parameter(torch.zeros(1))], lr=0.1)
        assert why_not_stacked(optimizer) is None
        optimizer.defaults["of_tomorrow"] = optimizer.param_groups[0]["of_tomorrow"] = 1
        assert "of_tomorrow=1 has no stacked form" in str(why_not_stacked(optimizer))


class WatchesWeights(LambdaLR):
    """A schedule of a user's own, which may look at anything."""

    def __init__(self, optimizer: Optimizer) -> None:
        weights = optimizer.param_groups[0]["params"]
        super().__init__(optimizer, lambda epoch: float(weights[0].detach().abs().sum()))


def test_a_schedule_that_may_look_at_the_weights_has_no_stacked_form_and_torchs_own_have() -> None:
    optimizer = SGD([nn.Parameter(torch.ones(1))], lr=0.1, momentum=0.9)
    assert "WatchesWeights is not one of torch's" in str(why_not_stacked(optimizer, WatchesWeights(optimizer)))
    parts = [StepLR(optimizer, 1), WatchesWeights(optimizer)]
    assert "WatchesWeights" in str(why_not_stacked(optimizer, SequentialLR(optimizer, parts, milestones=[1])))
    assert why_not_stacked(optimizer, ChainedScheduler([StepLR(optimizer, 1)], optimizer)) is None
    cycle = CyclicLR(optimizer, 0.01, 0.1, base_momentum=0)
    assert "momentum that the schedule moves" in str(why_not_stacked(optimizer, cycle))
