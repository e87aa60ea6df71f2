"""A stack of independent networks in one call: bit for bit one call a network."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from bnlab.batch_norm import batch_norm, use_kernel
from bnlab.batch_norm.back_ends import kernel


@pytest.fixture(params=[True, False], ids=["kernel", "plain"], autouse=True)
def path(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param and not kernel.is_available():
        pytest.skip("no C compiler for the CPU kernel")
    with use_kernel(request.param):
        yield


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def call(x: Tensor, tensors: dict[str, Tensor], stack_dims: int, training: bool, **more: Tensor | None) -> list[Tensor]:
    """y and the gradients of x, weight and bias, and the buffers after."""
    leaves = [x.clone().requires_grad_(), *(tensors[name].clone().requires_grad_() for name in ("weight", "bias"))]
    mean, var = tensors["mean"].clone(), tensors["var"].clone()
    y = batch_norm(
        leaves[0], mean, var, *leaves[1:], training, tensors["momentum"], tensors["eps"], stack_dims=stack_dims, **more
    )
    g = torch.linspace(-1, 1, x[0].numel() if stack_dims else x.numel()).view(x.shape[1:] if stack_dims else x.shape)
    y_and_gradients = [y.detach(), *torch.autograd.grad(y, leaves, g.to(x).expand_as(y).contiguous())]
    return [*y_and_gradients, mean, var]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "shape",
    [(8, 64, 100), (4, 3000, 257), (3, 7, 5), (2, 3000, 70), (5, 130, 257), (2, 6, 5, 9), (3, 40, 70, 33), (4, 9, 1)],
    ids=str,
)
def test_stack_equals_one_call_a_network_bit_for_bit(
    shape: tuple[int, ...], dtype: torch.dtype, training: bool, num_threads: int
) -> None:
    torch.set_num_threads(num_threads)
    torch.manual_seed(0)
    num_networks, num_features = shape[0], shape[2]
    x = torch.randn(shape, dtype=dtype) * 3 + torch.randn(num_networks, 1, num_features, *(1,) * (len(shape) - 3))
    tensors = {name: torch.randn(num_networks, num_features, dtype=dtype) for name in ("weight", "bias", "mean")}
    tensors["var"] = torch.rand(num_networks, num_features, dtype=dtype) + 0.5
    tensors["eps"] = torch.logspace(-8, -1, num_networks, dtype=torch.float64)
    tensors["momentum"] = torch.linspace(0.01, 1, num_networks, dtype=torch.float64)
    x = x.to(dtype)
    stacked = call(x, tensors, 1, training)
    for k in range(num_networks):
        alone_tensors: dict[str, object] = {name: tensor[k] for name, tensor in tensors.items()}
        alone_tensors |= {name: float(tensors[name][k]) for name in ("eps", "momentum")}
        alone = call(x[k], alone_tensors, 0, training)  # type: ignore[arg-type]
        for name, one, all_of_them in zip(("y", "dx", "dweight", "dbias", "mean", "var"), alone, stacked, strict=True):
            assert torch.equal(all_of_them[k], one), (name, k, (all_of_them[k] - one).abs().max())


def test_two_stack_dimensions_and_a_mask() -> None:
    torch.manual_seed(0)
    x, mask = torch.randn(2, 3, 8, 5), torch.rand(2, 3, 8) < 0.7
    weight = torch.randn(2, 3, 5)
    for m in (None, mask):
        mean, var = torch.zeros(2, 3, 5), torch.ones(2, 3, 5)
        y = batch_norm(x, mean, var, weight, None, True, mask=m, stack_dims=2)
        for i in range(2):
            for j in range(3):
                one_mean, one_var = torch.zeros(5), torch.ones(5)
                one = batch_norm(
                    x[i, j], one_mean, one_var, weight[i, j], None, True, mask=None if m is None else m[i, j]
                )
                torch.testing.assert_close(y[i, j], one)
                torch.testing.assert_close(mean[i, j], one_mean)
                torch.testing.assert_close(var[i, j], one_var)


def test_momentum_none_averages_in_a_stack() -> None:
    mean, var, counter = torch.zeros(2, 3), torch.ones(2, 3), torch.tensor(0)
    batches = torch.randn(4, 2, 6, 3)
    for x in batches:
        batch_norm(x, mean, var, None, None, True, None, stack_dims=1, num_batches_tracked=counter)
    torch.testing.assert_close(mean, batches.mean((0, 2)))
    torch.testing.assert_close(var, batches.var(2).mean(0))


def test_a_diverged_network_disturbs_no_other() -> None:
    x = torch.randn(3, 8, 4)
    clean = batch_norm(x, None, None, training=True, stack_dims=1)
    x[1] = torch.inf
    dirty = batch_norm(x, None, None, training=True, stack_dims=1)
    assert torch.equal(dirty[::2], clean[::2])
    assert dirty[1].isnan().all()


def test_a_stack_is_never_taken_for_a_length() -> None:
    x, weight = torch.randn(3, 8, 4), torch.ones(3, 4)
    with pytest.raises(RuntimeError, match=r"weight should contain 8 elements not 12.*pass `stack_dims=1`"):
        batch_norm(x, None, None, weight, training=True)
    with pytest.raises(ValueError, match=r"`weight` must have the shape \(3, 4\) of a stack of \(3,\) networks"):
        batch_norm(x, None, None, torch.ones(4), training=True, stack_dims=1)
    with pytest.raises(ValueError, match=r"must be \(\*stack, N, C\)"):
        batch_norm(x, None, None, training=True, stack_dims=2)
    with pytest.raises(ValueError, match="`mask` must be a bool tensor of shape"):
        batch_norm(x, None, None, training=True, stack_dims=1, mask=torch.ones(8, dtype=torch.bool))
