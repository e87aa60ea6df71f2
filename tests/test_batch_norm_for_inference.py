"""Folding, recalibration, freezing, masks and fp32 buffers."""

import copy

import pytest
import torch
from this_torch import norms_without_bias
from torch import nn
from torch.nn.utils import prune

from bnlab.batch_norm import (
    BatchNorm1d,
    BatchRenorm1d,
    GhostBatchNorm1d,
    batch_norm,
    fold,
    freeze,
    recalibrate,
    unfold,
    unfreeze,
)


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
@pytest.mark.parametrize(
    "pair",
    [pytest.param(pair, marks=[norms_without_bias] if pair == "norm_without_bias" else []) for pair in PAIRS],
)
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


NOT_FOLDED = {
    "weight_norm": lambda: torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)),
    "spectral_norm": lambda: torch.nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3)),
    "orthogonal": lambda: torch.nn.utils.parametrizations.orthogonal(nn.Conv1d(4, 3, 1)),
    "old_spectral_norm": lambda: torch.nn.utils.spectral_norm(nn.Linear(4, 3)),
    "pruned": lambda: prune.l1_unstructured(nn.Linear(4, 3), "weight", amount=2),
    "pruned_bias": lambda: prune.l1_unstructured(nn.Linear(4, 3), "bias", amount=1),
}


@pytest.mark.parametrize("norm_is_last", [True, False])
@pytest.mark.parametrize("made", NOT_FOLDED)
def test_what_computes_its_parameters_from_others_is_not_folded(made: str, norm_is_last: bool) -> None:
    layer = NOT_FOLDED[made]()
    norm = BatchNorm1d(3 if norm_is_last else 4).eval()
    with pytest.raises(ValueError, match=r"is computed from others: call .* first\.$"):
        fold(*((layer, norm) if norm_is_last else (norm, layer)))


def test_a_parametrization_that_is_removed_folds_and_so_does_that_of_a_norm() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 4, dtype=torch.float64)
    layer, norm = NOT_FOLDED["weight_norm"](), trained(BatchNorm1d(3))
    nn.utils.parametrize.remove_parametrizations(layer, "weight")
    nn.utils.parametrize.register_parametrization(norm, "weight", nn.Softplus())
    pair = nn.Sequential(layer, norm).double().eval()
    torch.testing.assert_close(fold(*pair)(x), pair(x))


class Scaled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class Renamed(nn.Linear):
    pass


def with_hook(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda _module, _inputs, y: 2 * y)
    return module


def with_pre_hook(module: nn.Module) -> nn.Module:
    module.register_forward_pre_hook(lambda _module, inputs: (2 * inputs[0],))
    return module


def with_own_forward(module: nn.Module) -> nn.Module:
    module.forward = lambda x: 2 * x  # type: ignore[method-assign]
    return module


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (lambda: Scaled(4, 3), BatchNorm1d(3), "Scaled has a forward of its own"),
        (lambda: with_own_forward(nn.Linear(4, 3)), BatchNorm1d(3), "Linear has a forward of its own"),
        (lambda: with_hook(nn.Linear(4, 3)), BatchNorm1d(3), "Linear has some: remove them first"),
        (lambda: nn.Linear(4, 3), with_pre_hook(BatchNorm1d(3)), "BatchNorm1d has some: remove them first"),
        (lambda: nn.LazyLinear(3), BatchNorm1d(3), "LazyLinear has none yet: call it on a batch first"),
        (lambda: nn.Linear(4, 3), nn.LazyBatchNorm1d(), "LazyBatchNorm1d has none yet: call it on a batch first"),
        (lambda: nn.Linear(4, 3, dtype=torch.complex64), BatchNorm1d(3), "the weight of Linear is torch.complex64"),
        (lambda: nn.ConvTranspose1d(4, 3, 2), BatchNorm1d(3), "takes a batch norm and an nn.Linear or nn.Conv1d"),
    ],
)
def test_what_computes_something_else_is_not_folded(first: object, second: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fold(first(), second.eval())  # type: ignore[operator]


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
def test_padding_by_values_of_the_input_folds(mode: str) -> None:
    torch.manual_seed(0)
    conv = nn.Conv1d(4, 3, 3, padding=1, padding_mode=mode).double()
    x = torch.randn(2, 4, 9, dtype=torch.float64)
    for pair in ((trained(BatchNorm1d(4)).double(), conv), (conv, trained(BatchNorm1d(3)).double())):
        torch.testing.assert_close(fold(*pair)(x), pair[1](pair[0](x)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("norm_is_last", [True, False])
def test_what_is_frozen_is_folded_into_something_frozen(norm_is_last: bool, bias: bool) -> None:
    linear, norm = Renamed(4, 4, bias=bias).half(), trained(BatchNorm1d(4))
    pair = (linear, norm) if norm_is_last else (norm, linear)
    for requires_grad in (False, True):
        linear.requires_grad_(requires_grad)
        folded = fold(*pair)
        assert [p.requires_grad for p in folded.parameters()] == [requires_grad] * 2
        assert {p.dtype for p in folded.parameters()} == {torch.float16}
        assert isinstance(folded, Renamed)
        assert {p.requires_grad for p in unfold(folded, *pair).parameters()} == {requires_grad}
    if bias:
        linear.weight.requires_grad_(False)
        assert [p.requires_grad for p in fold(*pair).parameters()] == [False, True]


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


class Called(nn.Module):
    """A network that calls its batch norm by keyword, twice if there is a mask."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, given: torch.Tensor | dict[str, torch.Tensor]) -> torch.Tensor:
        if isinstance(given, dict):
            self.norm(given["x"], given["mask"])
            return self.norm(mask=given["mask"], input=given["x"])
        return self.norm(input=given)


@pytest.mark.parametrize("make", [BatchNorm1d, BatchRenorm1d, GhostBatchNorm1d])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_recalibration_takes_empty_and_masked_batches_and_keywords(momentum: float | None, make: type) -> None:
    torch.manual_seed(0)
    data = torch.randn(40, 4)
    norm = make(4, momentum=momentum)
    mask = torch.arange(20) < 13
    masked = {"x": torch.where(mask[:, None], data[20:], torch.nan), "mask": mask}
    nothing = {"x": torch.full((5, 4), torch.nan), "mask": torch.zeros(5, dtype=torch.bool)}
    recalibrate(Called(norm), [data[:0], nothing, data[:20], data[:20], (data[:0], "label"), masked, nothing])
    values = torch.cat([data[:20], data[:20], data[20:33], data[20:33]]).double()
    torch.testing.assert_close(norm.running_mean, values.mean(0).float())
    torch.testing.assert_close(norm.running_var, values.var(0).float())
    assert norm.num_batches_tracked == 0
    before = copy.deepcopy(norm.state_dict())
    for batches in ([data[:0]], [nothing, data[:0]]):
        with pytest.raises(ValueError, match="at least one value to take statistics of"):
            recalibrate(Called(norm), batches)
    torch.testing.assert_close(norm.state_dict(), before, rtol=0, atol=0)


def test_recalibration_of_a_norm_that_saw_masked_values_alone_leaves_it() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen, self.masked, self.once = BatchNorm1d(2), BatchNorm1d(2), BatchNorm1d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            numbers = torch.arange(len(x))
            return self.once(self.masked(self.seen(x), numbers < 0), numbers < 1)

    network = Network()
    network.masked.running_mean.fill_(5), network.once.running_var.fill_(7)
    recalibrate(network, [torch.randn(6, 2)])
    assert (network.masked.running_mean == 5).all()
    assert (network.once.running_var == 7).all()  # one value has no variance


def test_unfreezing_wakes_what_freezing_put_to_sleep() -> None:
    network = nn.Sequential(BatchNorm1d(3), BatchNorm1d(3), BatchNorm1d(3, affine=False))
    network[0].weight.requires_grad_(False)
    untouched = BatchNorm1d(3).requires_grad_(False)
    freeze(network)
    freeze(network)  # once more changes nothing
    again = copy.deepcopy(network)
    for each in (network, again, untouched):
        unfreeze(each)
    assert [p.requires_grad for p in again.parameters()] == [False, True, True, True]
    assert [p.requires_grad for p in network.parameters()] == [False, True, True, True]
    assert [p.requires_grad for p in untouched.parameters()] == [False, False]


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


def test_a_layer_unfrozen_by_itself_is_in_the_mode_that_it_was_last_asked_for() -> None:
    for mode in (True, False):
        layer = BatchNorm1d(2).train(mode)
        freeze(layer)
        freeze(layer)
        unfreeze(layer)
        assert layer.training is mode
        freeze(layer)
        layer.train(not mode)
        assert not layer.training
        unfreeze(layer)
        assert layer.training is not mode
