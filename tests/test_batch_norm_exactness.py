"""Errors against float64, and the memory that forward and backward take."""

import contextlib
import functools
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bnlab.batch_norm import BatchNorm1d, BatchRenorm1d, GhostBatchNorm1d, batch_norm, use_kernel
from bnlab.batch_norm.back_ends import kernel
from bnlab.bench.batch_norm import EXACTNESS_MEANS, EXACTNESS_N, bytes_kept, errors, peak_bytes


@pytest.fixture(params=[True, False], ids=["kernel", "plain"], autouse=True)
def path(request: pytest.FixtureRequest) -> Iterator[bool]:
    if request.param and not kernel.is_available():
        pytest.skip("no C compiler for the CPU kernel")
    with use_kernel(request.param):
        yield request.param


@pytest.mark.parametrize("mean", EXACTNESS_MEANS)
@pytest.mark.parametrize("num_samples", EXACTNESS_N)
def test_errors_are_at_most_1e_6_normwise(num_samples: int, mean: float) -> None:
    assert max(errors(BatchNorm1d, num_samples, mean, seed=0)) <= 1e-6


def test_length_and_evaluation_are_as_exact() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 8, 300) + 1e6
    exact = x.double()
    mean, var = exact.mean((0, 2)), exact.var((0, 2), correction=0)
    reference = (exact - mean[:, None]) / (var[:, None] + 1e-5).sqrt()
    y = batch_norm(x, None, None, training=True)
    assert (y - reference).abs().max() / reference.abs().max() < 1e-6
    y = batch_norm(x, mean.float(), var.float())
    reference = (exact - mean.float().double()[:, None]) / (var[:, None] + 1e-5).sqrt()
    assert (y - reference).abs().max() / reference.abs().max() < 1e-6


def test_running_statistics_are_as_exact() -> None:
    x = torch.randn(8192, 16, generator=torch.Generator().manual_seed(0)) + 1e4
    layer = BatchNorm1d(16, momentum=1.0)
    layer(x)
    torch.testing.assert_close(layer.running_mean, x.double().mean(0).float(), rtol=6e-8 * 2, atol=0)
    torch.testing.assert_close(layer.running_var, x.double().var(0).float(), rtol=1e-6, atol=0)


def test_a_first_sample_far_off_is_no_reference_point() -> None:
    x = torch.randn(4096, 8, generator=torch.Generator().manual_seed(0)) + 1e4
    x[0] = 0.0
    exact = x.double() - x.double().mean(0)
    reference = exact / (exact.square().mean(0) + 1e-5).sqrt()
    assert (batch_norm(x, None, None, training=True) - reference).abs().max() / reference.abs().max() < 1e-6


@pytest.mark.parametrize("value", [0.1, 3e6, -7e-3])
def test_a_constant_channel_gives_the_bias(value: float) -> None:
    bias = torch.tensor([2.0, -3.0])
    x = torch.full((77, 2), value)
    y = batch_norm(x, None, None, torch.ones(2), bias, True, eps=1e-12)
    torch.testing.assert_close(y, bias.expand(77, 2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_in_its_channel(value: float) -> None:
    x = torch.randn(40, 5)
    clean = batch_norm(x, None, None, training=True)
    x[3, 2] = value
    y = batch_norm(x, None, None, training=True)
    assert y[:, 2].isnan().any()
    torch.testing.assert_close(y[:, [0, 1, 3, 4]], clean[:, [0, 1, 3, 4]], rtol=0, atol=0)


@pytest.mark.parametrize(
    "options", [{}, {"affine": False}, {"track_running_stats": False}, {"affine": False, "track_running_stats": False}]
)
@pytest.mark.parametrize("shape", [(60, 100), (256, 1024), (8, 128, 256)], ids=str)
def test_no_more_bytes_are_kept_for_backward_than_torch_keeps(shape: tuple[int, ...], options: dict[str, bool]) -> None:
    ours, theirs = (bytes_kept(cls(shape[1], **options), shape) for cls in (BatchNorm1d, nn.BatchNorm1d))
    assert ours <= theirs


@pytest.mark.parametrize("shape", [(256, 1024), (8192, 256), (64, 128, 256)], ids=str)
def test_peak_memory_is_at_most_a_tenth_above_torchs(shape: tuple[int, ...]) -> None:
    ours, theirs = (peak_bytes(cls(shape[1]), shape) for cls in (BatchNorm1d, nn.BatchNorm1d))
    # x, y, dL/dy and dL/dx, of which torch's layer holds all at the end
    assert theirs > 3.9 * torch.Size(shape).numel() * 4
    assert ours <= 1.1 * theirs


@pytest.mark.parametrize("rows_a_thread", [64, 256])
def test_rows_that_are_many_for_a_thread_are_as_exact(rows_a_thread: int) -> None:
    for seed in range(4):
        assert max(errors(BatchNorm1d, rows_a_thread * torch.get_num_threads(), 1e6, seed)) <= 1e-6


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize(
    "shape", [(130, 5), (1000, 20), (1000, 200), (300, 7, 1), (1000, 200, 1), (500, 3, 2)], ids=str
)
def test_every_number_of_rows_and_threads_is_as_exact(shape: tuple[int, ...], num_threads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, g = torch.randn(shape, generator=generator) + 1e4, torch.randn(shape, generator=generator) + 1
    layers = [BatchNorm1d(shape[1]), nn.BatchNorm1d(shape[1], dtype=torch.float64)]
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        results = []
        for layer in layers:
            copy = x.to(layer.weight.dtype).requires_grad_()
            y = layer(copy)
            gradients = torch.autograd.grad(y, [copy, layer.weight, layer.bias], g.to(y.dtype))
            results.append([y, *gradients, layer.running_mean, layer.running_var])
    finally:
        torch.set_num_threads(before)
    for ours, exact in zip(*results, strict=True):
        assert (ours - exact).abs().max() / exact.abs().max() <= 1e-6


AVERAGING = {
    "batch": functools.partial(BatchNorm1d, 3),
    "one_virtual_batch": functools.partial(GhostBatchNorm1d, 3, virtual_batch_size=7),
    "renorm": functools.partial(BatchRenorm1d, 3, ramp_start=0, ramp_end=0),
}


@pytest.mark.parametrize("way", ["eager", "traced", "compiled"])
@pytest.mark.parametrize("masked", [False, True], ids=["all_valid", "masked"])
@pytest.mark.parametrize("make", AVERAGING)
def test_an_average_in_float64_is_exact_in_float64(make: str, masked: bool, way: str) -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    layer = AVERAGING[make](momentum=None, dtype=torch.float64)
    batches = torch.randn(3, 7, 3, dtype=torch.float64) * 3 + 5
    mask = torch.arange(9) < 7 if masked else None  # 7 and 3, which fp32 divides by with an error of 3e-8
    call = torch.compile(layer, backend="eager", fullgraph=True) if way == "compiled" else layer
    for x in batches:
        given = torch.cat([x, torch.full((2, 3), torch.nan, dtype=torch.float64)]) if masked else x
        with FlopCounterMode(display=False) if way == "traced" else contextlib.nullcontext():
            call(given, mask)
    close = {"rtol": 2e-15, "atol": 0.0}
    torch.testing.assert_close(layer.running_mean, batches.mean((0, 1)), **close)
    torch.testing.assert_close(layer.running_var, batches.var(1).mean(0), **close)


def test_a_masked_stack_averages_exactly_in_float64() -> None:
    torch.manual_seed(0)
    mean, var, counter = (torch.zeros(2, 3).double(), torch.ones(2, 3).double(), torch.tensor(0))
    batches, mask = (
        torch.randn(3, 2, 9, 3, dtype=torch.float64) + 5,
        torch.arange(9).expand(2, 9) < torch.tensor([[7], [3]]),
    )
    for x in batches:
        batch_norm(x, mean, var, None, None, True, None, mask=mask, stack_dims=1, num_batches_tracked=counter)
    for k, num_valid in enumerate((7, 3)):
        valid = batches[:, k, :num_valid]
        torch.testing.assert_close(mean[k], valid.mean((0, 1)), rtol=2e-15, atol=0)
        torch.testing.assert_close(var[k], valid.var(1).mean(0), rtol=2e-15, atol=0)


def test_renorms_ramp_is_exact_in_float64() -> None:
    layer = BatchRenorm1d(1, r_max=3.0, d_max=5.0, ramp_start=0, ramp_end=7, affine=False).double()
    layer.running_var.fill_(1e-8), layer.running_mean.fill_(-1e3)  # r and d are at their bounds
    layer.num_batches_tracked.fill_(3)
    x = torch.tensor([[-2.0], [1.0], [1.0]], dtype=torch.float64)
    expected = x / (2 + 1e-5) ** 0.5 * (1 + 2 * 3 / 7) + 5 * 3 / 7
    torch.testing.assert_close(layer(x), expected, rtol=2e-15, atol=0)
