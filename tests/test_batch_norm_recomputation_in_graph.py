"""Checkpoints around compiled code and within: as the network in eager mode without any, the batch counted once."""

import copy
import functools
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    checkpoint_sequential,
    create_selective_checkpoint_contexts,
)

from bnlab.batch_norm import BatchNorm1d, BatchRenorm1d, GhostBatchNorm1d, batch_norm

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own, inside the compiler
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),  # as it looks for one
]

Forward = Callable[[Tensor], Tensor]
# "aot_eager" traces forward and backward as "inductor" does, without the seconds of the C++ compiler.
BACKENDS = ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
NORMS: dict[str, Callable[[], nn.Module]] = {
    "batch": lambda: BatchNorm1d(4),
    "momentum_none": lambda: BatchNorm1d(4, momentum=None),
    "ghost": lambda: GhostBatchNorm1d(4, virtual_batch_size=3),
    "renorm": lambda: BatchRenorm1d(4, ramp_start=0, ramp_end=4),
}

reentrant = functools.partial(checkpoint, use_reentrant=True)
not_reentrant = functools.partial(checkpoint, use_reentrant=False)


def policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    saved = (torch.ops.aten.add.Tensor, torch.ops.aten.sub.Tensor, torch.ops.aten.mul.Tensor)
    return CheckpointPolicy.MUST_SAVE if operator in saved else CheckpointPolicy.PREFER_RECOMPUTE


selective = functools.partial(not_reentrant, context_fn=functools.partial(create_selective_checkpoint_contexts, policy))


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Twice(nn.Module):
    """A network that calls its batch norm twice, on values that are no copies of each other."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 4), norm

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.linear(x)).tanh()
        return self.norm(self.linear(h)) * torch.sigmoid(h) + x


class Checkpointed(nn.Module):
    def __init__(self, network: nn.Module, call: Callable[[Any, Tensor], Tensor] = lambda run, x: run(x)) -> None:
        super().__init__()
        self.network, self.call = network, call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.network, x.sin()).cos()


def functional(network: nn.Module) -> Forward:
    def call(x: Tensor) -> Tensor:
        return torch.func.functional_call(network, dict(network.state_dict(keep_vars=True)), (x,))

    return call


# The network with its checkpoints around what is compiled, or within.
AROUND: dict[str, Callable[[nn.Module, str], Forward]] = {
    "reentrant": lambda network, backend: functools.partial(reentrant, compiled(network, backend)),
    "not_reentrant": lambda network, backend: functools.partial(not_reentrant, compiled(network, backend)),
    "without_early_stop": lambda network, backend: functools.partial(
        not_reentrant, compiled(network, backend), early_stop=False
    ),
    "selective": lambda network, backend: functools.partial(selective, compiled(network, backend)),
    "nested": lambda network, backend: functools.partial(
        reentrant, functools.partial(not_reentrant, compiled(network, backend))
    ),
    "wrapper": lambda network, backend: checkpoint_wrapper(compiled(network, backend), CheckpointImpl.REENTRANT),
    "sequential": lambda network, backend: functools.partial(
        checkpoint_sequential, [compiled(network, backend), nn.Identity()], 2, use_reentrant=False
    ),
    "functional_call": lambda network, backend: functools.partial(
        not_reentrant, compiled(functional(network), backend)
    ),
    "one_layer": lambda network, backend: functools.partial(not_reentrant, with_compiled_norm(network, backend)),
    "within_too": lambda network, backend: functools.partial(
        not_reentrant, compiled(Checkpointed(network, not_reentrant), backend)
    ),
}
WITHIN: dict[str, Callable[[nn.Module], nn.Module]] = {
    "reentrant": lambda network: Checkpointed(network, reentrant),
    "not_reentrant": lambda network: Checkpointed(network, not_reentrant),
    "selective": lambda network: Checkpointed(network, selective),
    "nested": lambda network: Checkpointed(Checkpointed(network, not_reentrant), not_reentrant),
    "wrapper": checkpoint_wrapper,
}
QUICK = {  # the others are slow
    ("batch", "reentrant", "aot_eager"),
    ("batch", "sequential", "eager"),
    ("momentum_none", "wrapper", "eager"),
    ("ghost", "nested", "eager"),
    ("renorm", "not_reentrant", "eager"),
    ("renorm", "without_early_stop", "eager"),
    ("renorm", "selective", "aot_eager"),
    ("renorm", "functional_call", "eager"),
    ("renorm", "one_layer", "eager"),
    ("renorm", "nested", "aot_eager"),
}


def cases(places: Iterable[str], backends: Iterable[str]) -> list[Any]:
    return [
        pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow, id="-".join(case))
        for case in itertools.product(NORMS, places, backends)
        if case[2] != "inductor" or case[0] in ("batch", "renorm")  # seconds each
    ]


def compiled(network: Any, backend: str) -> Any:
    return torch.compile(network, backend=backend)


def with_compiled_norm(network: nn.Module, backend: str) -> nn.Module:
    network.get_submodule("norm").compile(backend=backend)
    return network


def train(network: nn.Module, call: Forward) -> list[Any]:
    """Gradients and state after micro-batches, one of them twice, whose backwards come in another order."""
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(10, 4, dtype=torch.float64, generator=generator) + i for i in range(3)]
    leaves = [x.requires_grad_() for x in leaves]
    losses = [call(x).square().sum() * (i + 1) for i, x in enumerate([*leaves, leaves[0]])]
    for i in (1, 3, 0, 2):
        losses[i].backward()
    call(call(leaves[0])).square().sum().backward()
    return [[x.grad for x in leaves], [p.grad for p in network.parameters()], network.state_dict()]


def two_networks(norm: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    network = Twice(NORMS[norm]()).double()
    return network, copy.deepcopy(network)


@pytest.mark.parametrize(("norm", "around", "backend"), cases(AROUND, ["eager", "aot_eager", "inductor"]))
def test_checkpoint_around_compiled_code_counts_once(norm: str, around: str, backend: str) -> None:
    plain, network = two_networks(norm)
    call = AROUND[around](network, backend)
    expected = train(plain, Checkpointed(plain) if around == "within_too" else plain)
    torch.testing.assert_close(train(network, call), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("norm", "within", "backend"), cases(WITHIN, ["aot_eager", "inductor"]))
def test_checkpoint_within_compiled_code_counts_once(norm: str, within: str, backend: str) -> None:
    plain, network = two_networks(norm)
    call = torch.compile(WITHIN[within](network), fullgraph=True, backend=backend)
    times = {"wrapper": 0, "nested": 2}.get(within, 1)
    expected = train(plain, functools.reduce(lambda network, _: Checkpointed(network), range(times), plain))
    torch.testing.assert_close(train(network, call), expected, rtol=1e-12, atol=1e-12)


class Branches(nn.Module):
    """Two layers whose calls depend on no other: a compiler may run them in another order where it needs gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (BatchRenorm1d(4, affine=False, ramp_start=0, ramp_end=3) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            y = self.second(x.tanh() * 3)
            return self.first(x) * y
        y = self.first(x)
        return y * self.second(x.tanh() * 3)


def test_calls_that_a_graph_makes_in_another_order_are_told_apart() -> None:
    torch.manual_seed(0)
    plain = Branches().double()
    network = copy.deepcopy(plain)
    found = train(network, functools.partial(reentrant, compiled(network, "eager")))
    torch.testing.assert_close(found, train(plain, plain), rtol=1e-12, atol=1e-12)


def test_compiler_short_of_memory_keeps_what_cannot_be_computed_again() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 4), BatchRenorm1d(4, ramp_start=0, ramp_end=0), nn.Linear(4, 4)).double()
    plain(torch.randn(6, 4, dtype=torch.float64))
    network = copy.deepcopy(plain)
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    with torch._functorch.config.patch(activation_memory_budget=0.1):
        (found,) = torch.autograd.grad(compiled(network, "aot_eager_decomp_partition")(x).pow(3).sum(), x)
    torch.testing.assert_close(found, *torch.autograd.grad(plain(x).pow(3).sum(), x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("call", [reentrant, not_reentrant])
def test_masked_and_empty_batches_count_once_in_compiled_functional_form(call: Callable[..., Tensor]) -> None:
    x, mask = torch.randn(6, 4, requires_grad=True), torch.tensor([True] * 4 + [False] * 2)
    found, expected = ((torch.zeros(4), torch.ones(4), torch.tensor(0)) for _ in range(2))

    def run(x: Tensor, mask: Tensor, mean: Tensor, var: Tensor, counter: Tensor) -> Tensor:
        return batch_norm(x, mean, var, None, None, True, None, num_batches_tracked=counter, mask=mask)

    for n in (6, 0):
        once = functools.partial(compiled(run, "eager"), mean=found[0], var=found[1], counter=found[2])
        call(once, x[:n], mask[:n]).sum().backward()
        run(x[:n], mask[:n], *expected)
    assert found[2] == 2
    torch.testing.assert_close(found, expected)


def test_first_forward_of_compiled_code_inside_a_backward_learns() -> None:
    torch.manual_seed(0)
    layer = BatchRenorm1d(4, ramp_start=0, ramp_end=4).double()
    oracle = copy.deepcopy(layer)
    run = compiled(layer, "aot_eager")
    x = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    outer = torch.randn(5, 4, requires_grad=True)

    def also(_: Tensor) -> None:
        with torch.enable_grad():
            not_reentrant(run, x).pow(3).sum().backward()

    for _ in range(2):
        y = not_reentrant(torch.tanh, outer)
        y.register_hook(also)
        y.sum().backward()
        oracle(x).pow(3).sum().backward()
    torch.testing.assert_close(layer.state_dict(), oracle.state_dict())
    torch.testing.assert_close(layer.weight.grad, oracle.weight.grad)


def test_two_backwards_of_compiled_code_see_the_first_forward() -> None:
    plain, network = two_networks("renorm")
    x = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    loss, expected = not_reentrant(compiled(network, "aot_eager"), x).square().sum(), plain(x).square().sum()
    for _ in range(2):
        found = torch.autograd.grad(loss, x, retain_graph=True)
        torch.testing.assert_close(found, torch.autograd.grad(expected, x, retain_graph=True), rtol=1e-12, atol=1e-12)
    assert network.norm.num_batches_tracked == 2


def test_traced_layer_counts_once() -> None:
    layer, x = BatchNorm1d(4), torch.randn(6, 4, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # by which newer versions of torch say that it is deprecated
        traced = torch.jit.trace(layer, x, check_trace=False)
    before = int(layer.num_batches_tracked)
    reentrant(traced, x).sum().backward()
    assert layer.num_batches_tracked == before + 1


def test_one_graph_serves_all_layers_alike() -> None:
    graphs = CompileCounterWithBackend("eager")
    network = nn.Sequential(*(BatchRenorm1d(4) for _ in range(10)))
    for layer in network:
        layer.compile(backend=graphs)
    not_reentrant(network, torch.randn(6, 4, requires_grad=True)).sum().backward()
    assert graphs.frame_count == 1
    assert [int(layer.num_batches_tracked) for layer in network] == [1] * 10


def test_what_the_compiler_computes_again_or_eager_code_has_seen_is_refused() -> None:
    layer = BatchRenorm1d(4)
    x = torch.randn(5, 4, requires_grad=True)
    region: dict[str, Any] = {"run": layer}
    y = not_reentrant(lambda x: region["run"](x), x)
    region["run"] = compiled(layer, "eager")
    with pytest.raises(RuntimeError, match="both times compiled or both times not"):
        y.sum().backward()
    with torch._functorch.config.patch(activation_memory_budget=0.0):
        y = compiled(layer, "aot_eager")(x)
        with pytest.raises(RuntimeError, match="activation_memory_budget"):
            y.sum().backward()
