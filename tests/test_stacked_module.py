"""Networks of any kind stacked by vmap: the same curves, the hand-written backward, an error that names the layer."""

import json

import pytest
import torch
from stacked_oracle import alone, configs_of, stacked
from torch import nn

from bnlab.batch_norm import BatchNorm1d, BatchNormFunction
from bnlab.errors import UserError
from bnlab.stacked import train
from bnlab.stacked.formulas.stack import Stack
from bnlab.stacked.networks.mlp import StackedMLP
from bnlab.stacked.networks.module import StackedModule


class Convolution(nn.Module):
    """A network of a user's own."""

    def __init__(self, input_shape, num_classes, *, width, p=0.0, norm=None, placement="before") -> None:
        super().__init__()
        self.first = nn.Conv2d(input_shape[0], width, 3)
        self.norm = norm(width * (input_shape[1] - 2) * (input_shape[2] - 2)) if norm else nn.Identity()
        self.dropout = nn.Dropout(p) if p else nn.Identity()
        self.last = nn.Linear(width * (input_shape[1] - 2) * (input_shape[2] - 2), num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.dropout(self.norm(self.first(x).relu().flatten(1))))


def own(common, each, **model):
    configs = configs_of(common, each)
    for config in configs:
        config.model = {"_target_": f"{__name__}.Convolution", "width": 2, **model}
    return configs


@pytest.mark.parametrize("norm", ["none", "batch", "torch"])
@pytest.mark.parametrize("seeds", [(1, 1), (1, 2)], ids=["one seed", "two seeds"])
def test_a_module_of_a_users_own_has_the_curve_that_it_has_alone(norm: str, seeds: tuple[int, int]) -> None:
    each = [{"seed": seed, "optimizer.lr": lr} for seed, lr in zip(seeds, (0.01, 0.003), strict=True)]
    configs = own([f"norm={norm}", "trainer.precision=64-true", "trainer.max_epochs=2"], each)
    for config, trial in zip(configs, stacked(configs), strict=True):
        columns = trial.history.columns()
        for name, values in alone(config).items():
            assert columns[name] == pytest.approx(values, rel=1e-9, abs=1e-12), name


def test_the_hand_written_backward_runs_under_vmap(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = [nn.Sequential(BatchNorm1d(4), nn.Linear(4, 3)).double() for _ in range(2)]
    x, y = torch.randn(5, 4, dtype=torch.float64), torch.randint(3, (5,))
    model = StackedModule(networks)
    model.step(x, y)
    right = model.stack.views(model.stack.gradients.clone())
    true_backward = BatchNormFunction.backward

    def wrong(ctx, *gradients):
        return tuple(g if g is None else 3 * g for g in true_backward(ctx, *gradients))

    monkeypatch.setattr(BatchNormFunction, "backward", staticmethod(wrong))
    model.step(x, y)
    now = model.stack.views(model.stack.gradients)
    torch.testing.assert_close(now["0.weight"], 3 * right["0.weight"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(now["1.weight"], right["1.weight"], rtol=1e-12, atol=1e-12)


def test_a_layer_that_cannot_be_stacked_is_named() -> None:
    networks = [nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 3)) for _ in range(2)]
    with pytest.raises(UserError, match=r"layer '1' \(Dropout\)"):
        StackedModule(networks).try_out(torch.randn(2, 4))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"p": 0.5}, "layer 'dropout' (Dropout)"), ({"optimizer": "torch.optim.Adagrad"}, "Adagrad has no stacked form")],
    ids=["layer", "optimizer"],
)
def test_what_cannot_be_stacked_trains_alone_and_the_log_says_why(settings, reason, tmp_path) -> None:
    optimizer = settings.pop("optimizer", None)
    configs = own(["norm=none", "trainer.max_epochs=1"], [{"seed": 1}, {"seed": 2}], **settings)
    if optimizer is not None:
        for config in configs:
            config.optimizer = {"_target_": optimizer, "lr": 0.01}
    summaries = train(configs, tmp_path, num_workers=2)
    assert [summary["status"] for summary in summaries] == ["completed"] * 2
    for number in range(2):
        assert reason in (tmp_path / str(number) / "train.log").read_text()
        assert json.loads((tmp_path / str(number) / "summary.json").read_text())["steps"] == 17


def test_networks_come_out_of_a_stack_as_they_went_in() -> None:
    networks = [nn.Sequential(nn.Linear(4, 3), BatchNorm1d(3)) for _ in range(3)]
    for network in networks:
        network(torch.randn(6, 4))
    stack = Stack(networks)
    stack.keep([2, 0])
    for index, network in ((0, networks[2]), (1, networks[0])):
        state, expected = stack.state_dict(index), network.state_dict()
        assert list(state) == list(expected)
        assert all(torch.equal(state[name], expected[name]) for name in expected)
        network.load_state_dict(state)


def test_networks_of_two_architectures_are_refused() -> None:
    with pytest.raises(UserError, match="network 1 differs"):
        Stack([nn.Linear(4, 3), nn.Linear(4, 2)])
    with pytest.raises(UserError, match=r"momentum of layer '1' is 0\.2 in one and 0\.1 in another"):
        StackedModule([nn.Sequential(nn.Linear(4, 3), BatchNorm1d(3, momentum=m)) for m in (0.1, 0.2)])


def test_only_an_mlp_of_known_layers_is_stacked_layer_by_layer() -> None:
    config = configs_of([], [{}])[0]
    from bnlab.config.build import build_network

    network = build_network(config, (1, 8, 8), 10)
    assert StackedMLP.takes(network)
    network[2] = nn.LayerNorm(20)
    assert not StackedMLP.takes(network)


class Scaled(nn.Module):
    """Numbers that are neither parameters nor buffers, and in no repr."""

    def __init__(self, scale: float, mask: torch.Tensor) -> None:
        super().__init__()
        self.scale, self.mask = scale, mask
        self.last = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(x * self.mask * self.scale)


def test_networks_that_keep_different_numbers_outside_their_state_are_no_stack() -> None:
    """The first network's would be all the others' own."""
    mask = torch.tensor([1.0, 0.0, 1.0, 1.0])
    StackedModule([Scaled(2.0, mask), Scaled(2.0, mask.clone())])
    with pytest.raises(UserError, match=r"scale of layer '' is 3\.0 in one and 2\.0 in another"):
        StackedModule([Scaled(2.0, mask), Scaled(3.0, mask)])
    with pytest.raises(UserError, match="mask of layer ''"):
        StackedModule([Scaled(2.0, mask), Scaled(2.0, 1 - mask)])
