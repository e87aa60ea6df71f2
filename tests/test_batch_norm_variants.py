"""Ghost batch norm and batch renormalization."""

import copy
import functools

import pytest
import torch
from torch import nn

from bnlab.batch_norm import BatchNorm1d, BatchRenorm1d, GhostBatchNorm1d


def test_ghost_normalizes_each_virtual_batch_alone() -> None:
    torch.manual_seed(0)
    layer = GhostBatchNorm1d(3, virtual_batch_size=4, momentum=0.3)
    nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    x = torch.randn(11, 3, requires_grad=True)  # 2 virtual batches, of 6 and 5
    y = layer(x)
    parts = [x[:6], x[6:]]
    expected = [nn.functional.batch_norm(part, None, None, layer.weight, layer.bias, True) for part in parts]
    torch.testing.assert_close(y, torch.cat(expected))
    leaves, g = [x, layer.weight, layer.bias], torch.randn(11, 3)
    torch.testing.assert_close(torch.autograd.grad(y, leaves, g), torch.autograd.grad(torch.cat(expected), leaves, g))
    mean = torch.stack([part.mean(0) for part in parts]).mean(0)
    var = torch.stack([part.var(0) for part in parts]).mean(0)
    torch.testing.assert_close(layer.running_mean, 0.3 * mean.detach())
    torch.testing.assert_close(layer.running_var, 0.7 + 0.3 * var.detach())
    assert layer.num_batches_tracked == 1


@pytest.mark.parametrize("shape", [(8, 3), (8, 3, 5)], ids=str)
@pytest.mark.parametrize("make", [lambda: GhostBatchNorm1d(3, virtual_batch_size=8), lambda: BatchRenorm1d(3)])
def test_variants_become_batch_norm_at_their_limits(make: object, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    variant, plain = make(), BatchNorm1d(3)  # type: ignore[operator]
    for training in (True, True, False):
        x, g = torch.randn(shape), torch.randn(shape)
        results = []
        for layer in (variant.train(training), plain.train(training)):
            leaf = x.clone().requires_grad_()
            y = layer(leaf)
            results.append([y, *torch.autograd.grad(y, [leaf, *layer.parameters()], g)])
        torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(variant.state_dict(), plain.state_dict())


def test_renorm_is_the_papers_formula_and_its_gradient_takes_r_and_d_for_constants() -> None:
    torch.manual_seed(0)
    layer = BatchRenorm1d(3, r_max=2.0, d_max=0.5, ramp_start=0, ramp_end=4, momentum=0.2).double()
    layer.running_mean.copy_(torch.tensor([0.0, 5.0, -1.0]))
    layer.running_var.copy_(torch.tensor([1.0, 100.0, 0.01]))
    layer.num_batches_tracked.fill_(2)  # half up the ramp: r_max 1.5, d_max 0.25
    nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    x = torch.randn(16, 3, dtype=torch.float64, requires_grad=True)
    mean, var = layer.running_mean.clone(), layer.running_var.clone()
    y = layer(x)
    batch_mean, sigma_b = x.mean(0), (x.var(0, correction=0) + 1e-5).sqrt()
    sigma = (var + 1e-5).sqrt()
    r = (sigma_b / sigma).clamp(1 / 1.5, 1.5).detach()
    d = ((batch_mean - mean) / sigma).clamp(-0.25, 0.25).detach()
    assert ((r > 1 / 1.5) & (r < 1.5)).any()  # one in bounds, others clipped
    expected = layer.weight * ((x - batch_mean) / sigma_b * r + d) + layer.bias
    torch.testing.assert_close(y, expected)
    leaves, g = [x, layer.weight, layer.bias], torch.randn(16, 3, dtype=torch.float64)
    torch.testing.assert_close(torch.autograd.grad(y, leaves, g), torch.autograd.grad(expected, leaves, g))
    torch.testing.assert_close(layer.running_mean, 0.8 * mean + 0.2 * batch_mean.detach())
    torch.testing.assert_close(layer.running_var, 0.8 * var + 0.2 * x.var(0).detach())


def test_a_ramp_without_length_is_at_its_end_from_its_first_batch_on() -> None:
    layer = BatchRenorm1d(1, r_max=3.0, d_max=5.0, ramp_start=2, ramp_end=2)
    bounds = []
    for _ in range(4):
        bounds.append([float(bound) for bound in layer.bounds(torch.float32)])
        layer(torch.randn(4, 1))
    assert bounds == [[1.0, 0.0], [1.0, 0.0], [3.0, 5.0], [3.0, 5.0]]


def test_variants_take_masks() -> None:
    torch.manual_seed(0)
    x, mask = torch.randn(8, 3), torch.tensor([1, 1, 1, 0, 1, 1, 0, 1]).bool()
    ghost = GhostBatchNorm1d(3, virtual_batch_size=4)
    y = ghost(x, mask)
    for rows in (slice(0, 4), slice(4, 8)):
        expected = nn.functional.batch_norm(x[rows][mask[rows]], None, None, training=True)
        torch.testing.assert_close(y[rows][mask[rows]], expected)
    renorm = BatchRenorm1d(3, ramp_start=0, ramp_end=0)
    x = torch.where(mask[:, None], x, torch.nan)
    assert (renorm(x, mask)[~mask] == 0).all()
    assert renorm(x, mask).isfinite().all()


MAKERS = {
    "batch": BatchNorm1d,
    "ghost": functools.partial(GhostBatchNorm1d, virtual_batch_size=2),
    "renorm": functools.partial(BatchRenorm1d, ramp_start=0, ramp_end=0),
}


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 5), (4, 3, 0)], ids=str)
def test_an_empty_batch_is_to_all_what_it_is_to_torchs_layer(
    shape: tuple[int, ...], momentum: float | None, make: str
) -> None:
    ours, theirs = MAKERS[make](3, momentum=momentum), nn.BatchNorm1d(3, momentum=momentum)
    results = []
    for layer in (ours, theirs):
        for training in (True, False, True):
            x = torch.zeros(shape, requires_grad=True)
            y = layer.train(training)(x)
            results.append(
                [y, *torch.autograd.grad(y.sum(), [x, *layer.parameters()]), copy.deepcopy(layer.state_dict())]
            )
    torch.testing.assert_close(results[:3], results[3:])
    assert ours.num_batches_tracked == 2
    mask = torch.zeros(shape[:1] + shape[2:], dtype=torch.bool)
    assert ours(torch.zeros(shape), mask).shape == shape


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_mask_without_a_value_teaches_nothing(momentum: float | None, make: str) -> None:
    layer = MAKERS[make](3, momentum=momentum)
    layer.running_mean.fill_(5), layer.running_var.fill_(7)
    layer.num_batches_tracked.fill_(1)
    x = torch.full((6, 3), torch.nan, requires_grad=True)
    y = layer(x, torch.zeros(6, dtype=torch.bool))
    y.sum().backward()
    assert (y == 0).all()
    assert all((leaf.grad == 0).all() for leaf in (x, layer.weight, layer.bias))
    assert (layer.running_mean == 5).all()
    assert (layer.running_var == 7).all()


@pytest.mark.parametrize("make", MAKERS)
def test_one_valid_sample_has_a_mean_and_no_variance(make: str) -> None:
    layer = MAKERS[make](3, momentum=0.25)
    layer.running_var.fill_(7)
    x, mask = torch.randn(6, 3), torch.arange(6) == 4
    assert layer(x, mask).isfinite().all()
    torch.testing.assert_close(layer.running_mean, 0.25 * x[4])
    assert (layer.running_var == 7).all()


@pytest.mark.parametrize("length", [None, 3])
def test_ghost_averages_over_the_virtual_batches_that_know(length: int | None) -> None:
    torch.manual_seed(0)
    shape = (11, 3) if length is None else (11, 3, length)  # virtual batches of 4, 4 and 3
    x = torch.randn(shape, dtype=torch.float64)
    mask = torch.zeros(shape[:1] + shape[2:], dtype=torch.bool)
    mask[:3] = True  # of the second none, of the third one value
    mask.view(11, -1)[9, 0] = True
    layer = GhostBatchNorm1d(3, virtual_batch_size=3, momentum=0.5).double()
    layer(torch.where(mask.unsqueeze(1), x, torch.nan), mask)
    values = x[:3] if length is None else x[:3].transpose(1, 2).flatten(0, 1)
    alone = x[9].view(3, -1)[:, 0]
    torch.testing.assert_close(layer.running_mean, 0.5 * (values.mean(0) + alone) / 2)
    torch.testing.assert_close(layer.running_var, 0.5 + 0.5 * values.var(0))


def test_renorm_shifts_a_single_valid_sample_as_the_formula_says() -> None:
    layer = BatchRenorm1d(1, ramp_start=0, ramp_end=0, r_max=2.0, d_max=5.0, eps=0.5).double()
    layer.running_mean.fill_(1), layer.running_var.fill_(3.5), layer.num_batches_tracked.fill_(1)
    x = torch.tensor([[4.0], [torch.nan]], dtype=torch.float64, requires_grad=True)
    y = layer(x, torch.tensor([True, False]))
    torch.testing.assert_close(y, torch.tensor([[1.5], [0.0]], dtype=torch.float64))  # x_hat = 0, d = (4 - 1) / 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GhostBatchNorm1d(3, virtual_batch_size=1), "`virtual_batch_size` must be at least 2"),
        (lambda: BatchRenorm1d(3, r_max=0.5), "`r_max` must be at least 1"),
        (lambda: BatchRenorm1d(3, d_max=-1.0), "`d_max` must be at least 0"),
        (lambda: BatchRenorm1d(3, ramp_start=9, ramp_end=3), "ramp_start <= ramp_end"),
    ],
)
def test_impossible_bounds_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_variants_are_repeated_by_their_repr() -> None:
    assert "virtual_batch_size=16" in repr(GhostBatchNorm1d(3, virtual_batch_size=16))
    assert "r_max=2.5, d_max=5.0, ramp_start=5000, ramp_end=25000" in repr(BatchRenorm1d(3, r_max=2.5))


@pytest.mark.parametrize(
    ("x", "mask", "arguments"),
    [
        (torch.zeros(8, 1), None, {}),
        (torch.zeros(8, 1), None, {"affine": False}),
        (torch.zeros(8, 3).double(), None, {}),
        (torch.zeros(8, 3), None, {"dtype": torch.float64}),
        (torch.zeros(8, 3), torch.ones(11, dtype=torch.bool), {}),
        (torch.zeros(8, 3), torch.ones(8), {}),
        (torch.zeros(8, 3, 2), torch.ones(8, dtype=torch.bool), {}),
    ],
    ids=[
        "features",
        "features, not affine",
        "float64",
        "a layer in float64",
        "long mask",
        "float mask",
        "mask of samples",
    ],
)
@pytest.mark.parametrize(
    "kind", [functools.partial(GhostBatchNorm1d, virtual_batch_size=4), BatchRenorm1d], ids=["ghost", "renorm"]
)
def test_variants_refuse_what_batch_norm_refuses(x, mask, arguments, kind) -> None:
    with pytest.raises((RuntimeError, ValueError)) as plain:
        BatchNorm1d(3, **arguments)(x, mask)
    layer = kind(3, **arguments)
    with pytest.raises(plain.type) as refusal:
        layer(x, mask)
    assert str(refusal.value) == str(plain.value)
    assert (layer.running_mean == 0).all()
    assert layer.num_batches_tracked == 0


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float16, torch.float64], ids=str)
def test_the_ramp_of_renorm_counts_in_any_type(dtype: torch.dtype) -> None:
    layer, expected = BatchRenorm1d(3), BatchNorm1d(3)
    layer.num_batches_tracked = layer.num_batches_tracked.to(dtype)
    torch.manual_seed(0)
    for _ in range(2):
        x = 3 * torch.randn(8, 3) + 1
        torch.testing.assert_close(layer(x), expected(x))
