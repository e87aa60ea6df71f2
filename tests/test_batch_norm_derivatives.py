"""First, second and mixed derivatives, batched and in forward mode; and that they are the ones written by hand."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap

from bnlab.batch_norm import BatchNorm1d, batch_norm, use_kernel
from bnlab.batch_norm.arithmetic import formulas
from bnlab.batch_norm.back_ends import in_place, kernel, kernel_by_pointers, kernel_by_tensors, native

# torch's forward mode scripts its own decompositions when first used.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")


def composite(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, mask: Tensor | None = None
) -> Tensor:
    """The oracle: batch norm as plain differentiable operations, (N, C) or (N, C, L)."""
    dims = [0] if x.dim() == 2 else [0, 2]
    shape = (1, -1) if x.dim() == 2 else (1, -1, 1)
    m = torch.ones_like(x) if mask is None else mask.unsqueeze(1).to(x.dtype).expand_as(x)
    number = m.sum(dims, keepdim=True)
    mean = (x * m).sum(dims, keepdim=True) / number
    var = ((x - mean) ** 2 * m).sum(dims, keepdim=True) / number
    y = (x - mean) / (var + eps).sqrt()
    if weight is not None:
        y = y * weight.view(shape)
    if bias is not None:
        y = y + bias.view(shape)
    return y * m


def doubles(*shapes: tuple[int, ...]) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def ours(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    return batch_norm(x, None, None, weight, bias, True)


@pytest.fixture(params=[True, False], ids=["kernel", "plain"], autouse=True)
def path(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param and not kernel.is_available():
        pytest.skip("no C compiler for the CPU kernel")
    with use_kernel(request.param):
        yield


@pytest.mark.parametrize("shape", [(5, 3), (3, 3, 2)], ids=str)
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_gradcheck_first_and_second_order(shape: tuple[int, ...], masked: bool, mode: str) -> None:
    x, weight, bias = doubles(shape, (3,), (3,))
    mask = torch.rand(shape[:1] + shape[2:]) < 0.8 if masked else None
    mean, var = torch.randn(3, dtype=torch.float64), torch.rand(3, dtype=torch.float64) + 0.5

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if mode == "train":
            return batch_norm(x, None, None, weight, bias, True, mask=mask)
        return batch_norm(x, mean, var, weight, bias, mask=mask)

    checks = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    assert torch.autograd.gradcheck(function, (x, weight, bias), **checks)
    assert torch.autograd.gradgradcheck(
        function, (x, weight, bias), check_fwd_over_rev=True, check_rev_over_rev=True, check_batched_grad=True
    )


def test_gradcheck_without_parameters() -> None:
    (x,) = doubles((5, 3))
    assert torch.autograd.gradcheck(ours, (x,)) and torch.autograd.gradgradcheck(ours, (x,))  # noqa: PT018


@pytest.mark.parametrize("needed", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1)], ids=str)
def test_only_what_needs_a_gradient_gets_one(needed: tuple[int, ...]) -> None:
    tensors = [t.detach().requires_grad_(bool(n)) for t, n in zip(doubles((5, 3), (3,), (3,)), needed, strict=True)]
    leaves = [t for t in tensors if t.requires_grad]
    g = torch.randn(5, 3, dtype=torch.float64)
    found = torch.autograd.grad(ours(*tensors), leaves, g)
    torch.testing.assert_close(found, torch.autograd.grad(composite(*tensors), leaves, g))


def loss(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x, weight, bias: (function(x, weight, bias).sin() * torch.arange(3.0)).sum()


TRANSFORMS: dict[str, Callable[[Callable[..., Tensor]], Callable[..., object]]] = {
    "grad": lambda f: grad(loss(f), argnums=(0, 1, 2)),
    "grad_of_grad": lambda f: grad(lambda *a: grad(loss(f), argnums=1)(*a).sin().sum(), argnums=(0, 1, 2)),
    "third": lambda f: grad(lambda *a: grad(lambda *b: grad(loss(f))(*b).sin().sum())(*a).cos().sum(), argnums=(0, 1)),
    "jvp": lambda f: lambda *a: jvp(f, a, tuple(torch.cos(t) for t in a)),
    "nested_jvp": lambda f: (
        lambda *a: jvp(lambda *b: jvp(f, b, tuple(torch.cos(t) for t in b))[1], a, tuple(torch.sin(t) for t in a))
    ),
    "jacrev": lambda f: jacrev(f, argnums=(0, 1, 2)),
    "jacfwd": lambda f: jacfwd(f, argnums=(0, 1, 2)),
    "hessian": lambda f: hessian(loss(f), argnums=(0, 1)),
    "reverse_over_forward": lambda f: jacrev(jacfwd(loss(f)), argnums=(0, 1)),
    "forward_over_reverse": lambda f: lambda *a: jvp(grad(loss(f)), a, tuple(torch.cos(t) for t in a)),
    "vjp": lambda f: lambda *a: vjp(f, *a)[1](torch.ones(5, 3, dtype=torch.float64).cumsum(0)),
    "vmap": lambda f: (
        lambda x, *a: vmap(f, in_dims=(1, None, 0))(
            torch.stack([x, 2 * x.sin()], 1), a[0], torch.stack([a[1], a[1] ** 2])
        )
    ),
    "vmap_of_grad": lambda f: (
        lambda x, *a: vmap(grad(loss(f), argnums=(0, 1, 2)), in_dims=(0, None, None))(torch.stack([x, 2 * x.sin()]), *a)
    ),
    "grad_of_vmap": lambda f: grad(
        lambda x, *a: vmap(loss(f), in_dims=(0, None, None))(torch.stack([x, 2 * x.sin()]), *a).sum(), argnums=(0, 1, 2)
    ),
    "vmap_of_vmap": lambda f: (
        lambda x, *a: vmap(vmap(f, in_dims=(0, None, None)), in_dims=(2, None, None))(
            torch.randn(3, 5, 2, 3, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
            .movedim(1, 2)
            .movedim(1, 2),
            *a,
        )
    ),
    "vmap_of_jvp": lambda f: (
        lambda x, *a: vmap(lambda t: jvp(lambda x: f(x, *a), (x,), (t,))[1])(torch.stack([x, x.cos()]))
    ),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_torch_func_matches_plain_operations(transform: str) -> None:
    inputs = [tensor.detach() for tensor in doubles((5, 3), (3,), (3,))]
    found, expected = (TRANSFORMS[transform](function)(*inputs) for function in (ours, composite))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_evaluation_mode_under_torch_func() -> None:
    x, weight, bias = (tensor.detach() for tensor in doubles((5, 3), (3,), (3,)))
    mean, var = torch.randn(3, dtype=torch.float64), torch.rand(3, dtype=torch.float64) + 0.5
    hand = lambda x, w, b: batch_norm(x, mean, var, w, b)  # noqa: E731
    plain = lambda x, w, b: (x - mean) / (var + 1e-5).sqrt() * w + b  # noqa: E731
    for name in ("grad", "hessian", "nested_jvp", "vmap", "vmap_of_grad", "forward_over_reverse"):
        found, expected = (TRANSFORMS[name](function)(x, weight, bias) for function in (hand, plain))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_ensemble_of_stacked_modules_equals_a_loop() -> None:
    torch.manual_seed(0)
    networks = [nn.Sequential(nn.Linear(4, 3), BatchNorm1d(3, track_running_stats=False)).double() for _ in range(3)]
    parameters, buffers = stack_module_state(networks)
    x = torch.randn(6, 4, dtype=torch.float64)

    def scalar(p: dict[str, Tensor], b: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(networks[0], (p, b), (x,)).sin().square().sum()

    gradients = vmap(grad(scalar), in_dims=(0, 0, None))(parameters, buffers, x)
    for k, network in enumerate(networks):
        network.zero_grad()
        composite(network[0](x), network[1].weight, network[1].bias).sin().square().sum().backward()
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(gradients[name][k], parameter.grad)


def test_ensemble_keeps_running_statistics_of_each_network() -> None:
    torch.manual_seed(0)
    networks = [BatchNorm1d(3, momentum=0.3).double() for _ in range(3)]
    parameters, buffers = stack_module_state(networks)
    xs = torch.randn(3, 6, 3, dtype=torch.float64)
    vmap(lambda p, b, x: functional_call(networks[0], (p, b), (x,)))(parameters, buffers, xs)
    for k, network in enumerate(networks):
        network(xs[k])
        for name, buffer in network.named_buffers():
            torch.testing.assert_close(buffers[name][k], buffer)


def test_functional_call_with_another_bias() -> None:
    layer, x = BatchNorm1d(3), torch.randn(4, 3)
    moved = functional_call(layer, {"bias": torch.full((3,), 5.0)}, (x,))
    torch.testing.assert_close(moved, composite(x) + 5)


# A backward that is wrong on purpose must show: then it is the one that runs.
MODES: dict[str, Callable[[Tensor], Tensor]] = {
    "double_backward": lambda x: torch.autograd.grad((ours(x) * x).sum(), x, create_graph=True)[0].detach(),
    "torch_func_grad": lambda x: grad(lambda x: (ours(x) * x.detach()).sum())(x.detach()),
    "vmap_of_grad": lambda x: vmap(grad(lambda x: (ours(x) * x.detach()).sum()))(x.detach()[None])[0],
    "grad_of_vmap": lambda x: grad(lambda x: (vmap(ours)(x[None])[0] * x.detach()).sum())(x.detach()),
    "jacrev": lambda x: jacrev(ours)(x.detach()),
    "forward_over_reverse": lambda x: jvp(grad(lambda x: (ours(x) * x.detach()).sum()), (x.detach(),), (x.cos(),))[0],
    "jvp": lambda x: jvp(ours, (x.detach(),), (x.detach().cos(),))[1],
}


@pytest.mark.parametrize("mode", MODES)
def test_hand_written_derivative_is_the_one_that_runs(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (x,) = doubles((5, 3))
    right = MODES[mode](x)
    true_backward = formulas.backward
    monkeypatch.setattr(formulas, "backward", lambda *a: tuple(3 * g for g in true_backward(*a)))
    wrong = MODES[mode](x)
    if mode == "double_backward":  # of the product, half is the derivative of the other factor
        right, wrong = right - ours(x).detach(), wrong - ours(x).detach()
    torch.testing.assert_close(wrong, 3 * right)


@pytest.mark.parametrize("way", ["kernel", "kernel_asking_in_python", "plain", "half"])
def test_hand_written_backward_is_the_one_that_runs_in_eager_mode(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    by_kernel = way.startswith("kernel")
    with use_kernel(True):
        if by_kernel and not kernel.is_available():
            pytest.skip("no C compiler for the kernel")
        if way == "kernel" and not kernel.knows_tensors():
            pytest.skip("the kernel does not know this torch's tensors")
    if way == "kernel_asking_in_python":
        monkeypatch.setattr(kernel, "run_tensors", None)
    dtype = torch.bfloat16 if way == "half" else torch.float64
    x, g = torch.randn(5, 3, dtype=dtype, requires_grad=True), torch.randn(5, 3, dtype=dtype)
    layer = BatchNorm1d(3, dtype=dtype)

    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(layer(x), [x, layer.weight, layer.bias], g)

    with use_kernel(way != "plain"):
        right = gradients()
        back_end = (
            kernel_by_tensors
            if way == "kernel"
            else kernel_by_pointers
            if by_kernel
            else in_place
            if way == "half"
            else native
        )
        true_backward = back_end.backward
        monkeypatch.setattr(back_end, "backward", lambda *a: tuple(3 * t for t in true_backward(*a)))
        torch.testing.assert_close(gradients(), tuple(3 * gradient for gradient in right))


@pytest.mark.parametrize("shape", [(5, 3), (300, 7), (4, 3, 6)])
def test_a_graph_that_is_kept_can_be_gone_through_again(shape: tuple[int, ...]) -> None:
    x, g = torch.randn(shape, requires_grad=True), torch.randn(shape)
    layer = BatchNorm1d(shape[1])
    with use_kernel(False):
        y = layer(x)
        inputs = [x, layer.weight, layer.bias]
        first = torch.autograd.grad(y, inputs, g, retain_graph=True)
        kept = [gradient.clone() for gradient in first]
        second = torch.autograd.grad(y, inputs, g, retain_graph=True)
        last = torch.autograd.grad(y, inputs, g)
    for gradients in (second, last):
        assert all(map(torch.equal, gradients, kept))
    assert all(map(torch.equal, first, kept))


def test_what_a_hook_keeps_of_the_forward_stays_as_it_was() -> None:
    x = torch.randn(5, 3, requires_grad=True)
    kept: list[tuple[Tensor, Tensor]] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append((tensor, tensor.clone()))
        return tensor

    with use_kernel(False), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        BatchNorm1d(3)(x).square().sum().backward()
    assert len(kept) > 3
    assert all(torch.equal(tensor, before) for tensor, before in kept)


@pytest.mark.parametrize("training", [True, False])
def test_functionalize_takes_it(training: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 3)
    results = []
    for layer in (BatchNorm1d(3).train(training), nn.BatchNorm1d(3).train(training)):
        state = {name: value.detach().clone() for name, value in layer.state_dict().items()}

        def loss(state, x, layer=layer):
            return (torch.func.functional_call(layer, state, (x,)) ** 3).sum()

        gradient = torch.func.functionalize(torch.func.grad(loss, argnums=1))(state, x)
        results.append((gradient, state))
    torch.testing.assert_close(*results)
