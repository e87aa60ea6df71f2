"""Folding, recalibration, freezing, masks and fp32 buffers."""

import copy

import pytest
import torch
from torch import nn

from bnlab.batch_norm import BatchNorm1d, batch_norm, fold, freeze, recalibrate, unfold, unfreeze


def trained(norm: nn.Module) -> nn.Module:
    for name, tensor in [*norm.named_parameters(), *norm.named_buffers()]:
        if tensor.is_floating_point():
            tensor.data = torch.rand_like(tensor) + 0.5 if name.endswith("var") else torch.randn_like(tensor)
    return norm.eval()


PAIRS = {
    "linear_then_norm": lambda bias, kind: (nn.Linear(4, 3, bias=bias), kind(3), (6, 4)),
    "norm_then_linear": lambda bias, kind: (kind(4), nn.Linear(4, 3, bias=bias), (6, 4)),
    "conv_then_norm": lambda bias, kind: (nn.Conv1d(4, 6, 3, padding=1, groups=2, bias=bias), kind(6), (2, 4, 9)),
    "norm_then_conv": lambda bias, kind: (kind(4), nn.Conv1d(4, 3, 3, bias=bias), (2, 4, 9)),
    "norm_without_parameters": lambda bias, kind: (nn.Linear(4, 3, bias=bias), kind(3, affine=False), (6, 4)),
    "norm_without_bias": lambda bias, kind: (kind(4, bias=False), nn.Linear(4, 3, bias=bias), (6, 4)),
}


@pytest.mark.parametrize("kind", [BatchNorm1d, nn.BatchNorm1d])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("pair", PAIRS)
def test_folding_is_exact_and_is_undone(pair: str, bias: bool, kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    first, second, shape = PAIRS[pair](bias, kind)
    first, second = trained(first).double(), trained(second).double()
    x = torch.randn(shape, dtype=torch.float64)
    before = copy.deepcopy((first.state_dict(), second.state_dict()))
    folded = fold(first, second)
    torch.testing.assert_close(folded(x), second(first(x)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((first.state_dict(), second.state_dict()), before, rtol=0, atol=0)
    layer = second if isinstance(first, kind) else first
    again = unfold(folded, first, second)
    torch.testing.assert_close(dict(again.named_parameters()), dict(layer.named_parameters()), rtol=1e-9, atol=1e-9)
    folded.bias.data.add_(1.5)  # learned since
    again = unfold(folded, first, second)
    pair_again = (first, again) if isinstance(first, kind) else (again, second)
    torch.testing.assert_close(fold(*pair_again)(x), folded(x), rtol=1e-9, atol=1e-9)


def test_folding_adds_one_rounding_only() -> None:
    torch.manual_seed(0)
    linear, norm = trained(nn.Linear(30, 20)), trained(BatchNorm1d(20))
    exact = fold(copy.deepcopy(linear).double(), copy.deepcopy(norm).double())
    folded = fold(linear, norm)
    assert torch.equal(folded.weight, exact.weight.float())
    assert torch.equal(folded.bias, exact.bias.float())


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (nn.Linear(4, 3), BatchNorm1d(3), "in training mode: call `.eval\\(\\)` first"),
        (nn.Linear(4, 3), BatchNorm1d(3, track_running_stats=False).eval(), "without any"),
        (nn.Linear(4, 3), nn.ReLU(), "takes a batch norm and an nn.Linear or nn.Conv1d"),
        (BatchNorm1d(4).eval(), nn.Conv1d(4, 3, 3, padding=1), "only without padding"),
        (nn.Linear(4, 3), BatchNorm1d(4).eval(), "3 features meet 4"),
    ],
)
def test_what_cannot_be_folded_says_why(first: nn.Module, second: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fold(first, second)


@pytest.mark.parametrize("shape", [(50, 4), (50, 4, 6)], ids=str)
def test_recalibration_finds_the_datas_own_statistics(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    data = torch.randn(shape) * 3 + 100
    norm = BatchNorm1d(4, momentum=0.3)
    norm(data[:5])
    tracked = int(norm.num_batches_tracked)
    norm.eval()
    recalibrate(norm, [data[:20], (data[20:27], "label"), data[27:]])
    dims = [d for d in range(data.dim()) if d != 1]
    torch.testing.assert_close(norm.running_mean, data.double().mean(dims).float())
    torch.testing.assert_close(norm.running_var, data.double().var(dims).float())
    assert not norm.training
    assert norm.num_batches_tracked == tracked


def test_recalibration_of_a_deep_network_leaves_the_rest_alone() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(4, 5), BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3), nn.BatchNorm1d(3)
    ).train()
    network[4].eval()
    batches = torch.randn(6, 32, 4)
    weights = copy.deepcopy(dict(network.named_parameters()))
    recalibrate(network, iter(batches))
    torch.testing.assert_close(dict(network.named_parameters()), weights, rtol=0, atol=0)
    assert [m.training for m in network] == [True, True, True, True, False, True]
    with torch.no_grad():
        z = network[0](batches.flatten(0, 1))
        torch.testing.assert_close(network[1].running_var, z.var(0))
        hidden = [
            network[4](nn.functional.batch_norm(network[0](x), None, None, *network[1].parameters(), True).relu())
            for x in batches
        ]
        torch.testing.assert_close(network[5].running_mean, torch.cat(hidden).mean(0), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="at least one batch"):
        recalibrate(network, [])


def test_frozen_layers_stand_still_until_unfrozen() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), BatchNorm1d(3))
    x = torch.randn(8, 4)
    network(x)
    before = copy.deepcopy(network.state_dict())
    freeze(network)
    network.train()
    y = network(x)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(y, copy.deepcopy(network).eval()(x))
    y.sum().backward()
    assert network[1].weight.grad is None
    assert network[0].weight.grad is not None
    unfreeze(network)
    network(x).sum().backward()
    assert network[1].num_batches_tracked == 2
    assert network[1].weight.grad is not None
    with pytest.raises(ValueError, match=r"Only bnlab.batch_norm.BatchNorm1d can be frozen"):
        freeze(nn.Sequential(nn.BatchNorm1d(3)))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("shape", [(12, 4), (5, 4, 7)], ids=str)
def test_masked_samples_count_for_nothing(shape: tuple[int, ...], training: bool) -> None:
    torch.manual_seed(0)
    x, g = torch.randn(shape), torch.randn(shape)
    mask = torch.rand(shape[:1] + shape[2:]) < 0.6
    packed = (x.movedim(1, -1)[mask], g.movedim(1, -1)[mask])  # (valid, C): the oracle sees no padding
    oracle, layer = nn.BatchNorm1d(4).train(training), BatchNorm1d(4).train(training)
    nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    oracle.load_state_dict(layer.state_dict())
    padded = torch.where(mask.unsqueeze(1), x, torch.nan).requires_grad_()  # padding of any value stays out
    short = packed[0].clone().requires_grad_()
    y, expected = layer(padded, mask), oracle(short)
    torch.testing.assert_close(y.movedim(1, -1)[mask], expected)
    assert (y.movedim(1, -1)[~mask] == 0).all()
    y.backward(g), expected.backward(packed[1])
    torch.testing.assert_close(padded.grad.movedim(1, -1)[mask], short.grad)
    assert (padded.grad.movedim(1, -1)[~mask] == 0).all()
    for p, q in zip(layer.parameters(), oracle.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    torch.testing.assert_close(layer.state_dict(), oracle.state_dict())


def test_a_batch_of_padding_alone_changes_nothing() -> None:
    layer = BatchNorm1d(3)
    y = layer(torch.full((4, 3), torch.nan), torch.zeros(4, dtype=torch.bool))
    assert (y == 0).all()
    assert (layer.running_mean == 0).all()
    assert (layer.running_var == 1).all()
    assert layer.num_batches_tracked == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_fp32_buffers_survive_a_move_to_half(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    kept, lost = BatchNorm1d(8, momentum=0.01, fp32_buffers=True), BatchNorm1d(8, momentum=0.01)
    kept.running_mean += 1 / 3
    kept.to(dtype), lost.to(dtype)
    assert (kept.weight.dtype, kept.running_mean.dtype) == (dtype, torch.float32)
    assert torch.equal(kept.running_mean, torch.full((8,), 1 / 3))
    for _ in range(600):
        x = (torch.randn(16, 8) + 3).to(dtype)
        kept(x), lost(x)
    assert (kept.running_mean - 3).abs().max() < 0.1
    assert (lost.running_mean - 3).abs().max() > 0.1 or dtype == torch.float16
    again = BatchNorm1d(8, dtype=dtype, fp32_buffers=True)
    again.load_state_dict(kept.state_dict())
    assert torch.equal(again.running_mean, kept.running_mean)
    assert "fp32_buffers=True" in repr(again)


def test_one_valid_sample_gives_the_bias() -> None:
    mask = torch.tensor([True, False, False])
    x, mean, var = torch.randn(3, 2), torch.zeros(2), torch.ones(2)
    y = batch_norm(x, mean, var, None, torch.tensor([1.0, 2.0]), True, mask=mask)
    torch.testing.assert_close(mean, 0.1 * x[0])
    assert (var == 1).all()  # one value has no variance to learn
    torch.testing.assert_close(y, torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]]))
