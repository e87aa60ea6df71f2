"""Activation checkpointing and other forwards inside a backward: as without them, the batch counted once."""

import copy
import functools
import gc
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from this_torch import curries_checkpoints
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper
from torch.utils.checkpoint import checkpoint, checkpoint_sequential, create_selective_checkpoint_contexts

from bnlab.batch_norm import BatchNorm1d, BatchRenorm1d, GhostBatchNorm1d, batch_norm, freeze
from bnlab.batch_norm.checkpointing import recomputation

Forward = Callable[[Tensor], Tensor]
reentrant = functools.partial(checkpoint, use_reentrant=True)
not_reentrant = functools.partial(checkpoint, use_reentrant=False)

NORMS = {
    "batch": lambda: BatchNorm1d(4),
    "momentum_none": lambda: BatchNorm1d(4, momentum=None),
    "ghost": lambda: GhostBatchNorm1d(4, virtual_batch_size=3),
    "renorm": lambda: BatchRenorm1d(4, ramp_start=0, ramp_end=4),
    "renorm_not_affine": lambda: BatchRenorm1d(4, affine=False, momentum=None, ramp_start=0, ramp_end=4),
}


class AnothersCheckpointFunction(torch.autograd.Function):
    """As other libraries write theirs: without gradients first, and again in backward."""

    @staticmethod
    def forward(ctx: Any, run: Forward, x: Tensor) -> Tensor:
        ctx.run = run
        ctx.save_for_backward(x)
        with torch.no_grad():
            return run(x)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[None, Tensor | None]:
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            y = ctx.run(x)
        y.backward(grad_y)
        return None, x.grad


class Called(nn.Module):
    def __init__(self, run: Forward) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


def selective(run: Forward, x: Tensor) -> Tensor:
    saved = [
        torch.ops.aten.mul.Tensor,
        torch.ops.aten.add.Tensor,
        torch.ops.aten.sub.Tensor,
        torch.ops.aten.sum.dim_IntList,
    ]
    return not_reentrant(run, x, context_fn=functools.partial(create_selective_checkpoint_contexts, saved))


def under_hooks(run: Forward) -> Forward:
    def call(x: Tensor) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
            return run(x)

    return call


CHECKPOINTS: dict[str, Callable[[Forward, Tensor], Tensor]] = {
    "reentrant": reentrant,
    "not_reentrant": not_reentrant,
    "curried": lambda run, x: not_reentrant()(run)(x),
    "without_random_state": functools.partial(not_reentrant, preserve_rng_state=False),
    "without_early_stop": functools.partial(not_reentrant, early_stop=False),
    "hooks_within": lambda run, x: not_reentrant(under_hooks(run), x),
    "selective": selective,
    "nested": lambda run, x: not_reentrant(lambda x: not_reentrant(run, x), x),
    "nested_reentrant": lambda run, x: reentrant(lambda x: reentrant(run, x), x),
    "reentrant_within": lambda run, x: not_reentrant(lambda x: reentrant(run, x), x),
    "reentrant_around": lambda run, x: reentrant(lambda x: not_reentrant(run, x), x),
    "wrapper": lambda run, x: checkpoint_wrapper(Called(run))(x),
    "reentrant_wrapper": lambda run, x: checkpoint_wrapper(Called(run), CheckpointImpl.REENTRANT)(x),
    "sequential": lambda run, x: checkpoint_sequential([run, nn.Identity()], 2, x, use_reentrant=False),
    "anothers": AnothersCheckpointFunction.apply,
}


class Shared(nn.Module):
    """A network that calls its batch norm three times, twice on the same values."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 4), norm, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x)
        h = self.norm(z).tanh() + self.norm(z).sigmoid()
        return self.norm(self.last(h)) * torch.sigmoid(h) + x


def train(network: nn.Module, batches: list[Tensor], call: Callable[[Forward, Tensor], Tensor]) -> list[Any]:
    """Gradients and state after micro-batches, one of them twice, whose backwards come in another order."""
    leaves = [x.clone().requires_grad_() for x in batches]
    losses = [call(network, x).square().sum() * (i + 1) for i, x in enumerate([*leaves, leaves[0]])]
    for i in (1, 3, 0, 2):
        losses[i].backward()
    call(network, call(network, leaves[0])).square().sum().backward()
    return [[x.grad for x in leaves], [p.grad for p in network.parameters()], network.state_dict()]


@pytest.mark.parametrize(
    "call", [pytest.param(call, marks=[curries_checkpoints] if call == "curried" else []) for call in CHECKPOINTS]
)
@pytest.mark.parametrize("norm", NORMS)
def test_checkpointed_layer_equals_the_plain_one(norm: str, call: str) -> None:
    torch.manual_seed(0)
    plain = Shared(NORMS[norm]()).double()
    checkpointed = copy.deepcopy(plain)
    batches = [torch.randn(10, 4, dtype=torch.float64) + i for i in range(3)]
    expected = train(plain, batches, lambda run, x: run(x))
    torch.testing.assert_close(train(checkpointed, batches, CHECKPOINTS[call]), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", ["batch", "renorm"])
def test_derivatives_of_derivatives_and_a_second_backward_see_the_first_forward(norm: str) -> None:
    torch.manual_seed(0)
    plain = Shared(NORMS[norm]()).double()
    checkpointed = copy.deepcopy(plain)
    x = torch.randn(10, 4, dtype=torch.float64, requires_grad=True)
    results = []
    for network, call in ((plain, lambda run, x: run(x)), (checkpointed, not_reentrant)):
        losses = [call(network, x).pow(4).sum() for _ in range(2)]
        (first,) = torch.autograd.grad(losses[0], x, create_graph=True)
        second = torch.autograd.grad(first.square().sum(), [x, *network.parameters()], retain_graph=True)
        again = torch.autograd.grad(losses[0], [x, *network.parameters()])
        results.append([first.detach(), second, again, network.state_dict()])
    torch.testing.assert_close(results[1], results[0], rtol=1e-11, atol=1e-11)


def test_what_is_in_evaluation_frozen_or_untracked_stays_so_under_a_checkpoint() -> None:
    torch.manual_seed(0)
    frozen = nn.Sequential(BatchRenorm1d(4))
    freeze(frozen)
    for norm in (BatchNorm1d(4).eval(), frozen.train(), BatchNorm1d(4, track_running_stats=False)):
        before = copy.deepcopy(norm.state_dict())
        x = torch.randn(6, 4)
        expected = x.clone().requires_grad_()
        norm(expected).square().sum().backward()
        for call in (reentrant, not_reentrant):
            leaf = x.clone().requires_grad_()
            call(norm, leaf).square().sum().backward()
            torch.testing.assert_close(leaf.grad, expected.grad, rtol=0, atol=0)
        torch.testing.assert_close(norm.state_dict(), before, rtol=0, atol=0)


def test_functional_form_counts_a_checkpointed_batch_once() -> None:
    x = torch.randn(6, 4, requires_grad=True)
    mean, var, counter = torch.zeros(4), torch.ones(4), torch.tensor(0)
    for call in (reentrant, not_reentrant, selective):
        call(
            lambda x: batch_norm(x, mean, var, None, None, True, None, num_batches_tracked=counter), x
        ).sum().backward()
    assert counter == 3
    torch.testing.assert_close(mean, x.detach().mean(0))
    torch.testing.assert_close(var, x.detach().var(0))


def in_tensor_hook(network: nn.Sequential, x: Tensor, also: Callable[[], None]) -> Tensor:
    y = network(x)
    y.register_hook(lambda _: also())
    return y


def in_module_hook(network: nn.Sequential, x: Tensor, also: Callable[[], None]) -> Tensor:
    network[0].register_full_backward_hook(lambda *_: also())
    return network(x)


def in_hook_of_a_parameter(network: nn.Sequential, x: Tensor, also: Callable[[], None]) -> Tensor:
    network[0].weight.register_post_accumulate_grad_hook(lambda _: also())
    return network(x)


def in_function(network: nn.Sequential, x: Tensor, also: Callable[[], None]) -> Tensor:
    class Also(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            also()
            return g

    return Also.apply(network(x))


def in_reentrant_checkpoint(network: nn.Sequential, x: Tensor, also: Callable[[], None]) -> Tensor:
    def run(x: Tensor) -> Tensor:
        y = network(x)
        if y.requires_grad:  # only in the recomputation, whose backward then calls the hook
            y.register_hook(lambda _: also())
        return y

    return reentrant(run, x)


@pytest.mark.parametrize(
    "place", [in_tensor_hook, in_module_hook, in_hook_of_a_parameter, in_function, in_reentrant_checkpoint]
)
@pytest.mark.parametrize("call", ["plain", "reentrant", "not_reentrant"])
@pytest.mark.parametrize("norm", ["batch", "ghost", "renorm"])
def test_first_forward_inside_a_backward_learns(norm: str, call: str, place: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    layer = NORMS[norm]()
    oracle = copy.deepcopy(layer)
    network = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    other = torch.randn(9, 4, requires_grad=True)
    calls = {"plain": lambda run, x: run(x), "reentrant": reentrant, "not_reentrant": not_reentrant}

    def also() -> None:
        with torch.enable_grad():
            calls[call](layer, other).square().sum().backward()

    place(network, torch.randn(5, 4, requires_grad=True), also).sum().backward()
    oracle(other).square().sum().backward()
    torch.testing.assert_close(layer.state_dict(), oracle.state_dict())
    torch.testing.assert_close(layer.weight.grad, oracle.weight.grad)


def test_looking_at_saved_tensors_counts_nothing() -> None:
    layer = BatchNorm1d(4)
    y = not_reentrant(lambda x: layer(x).tanh(), torch.randn(5, 4, requires_grad=True))
    assert y.grad_fn._saved_result.shape == (5, 4)  # which runs the region again, outside of any backward
    assert layer.num_batches_tracked == 1


def test_nothing_is_kept_when_the_graph_is_gone_nor_outside_of_checkpoints() -> None:
    layer = BatchRenorm1d(4, ramp_start=0, ramp_end=0)
    attributes = set(vars(layer))
    x = torch.randn(5, 4, requires_grad=True)
    gc.collect()
    before = len(recomputation.recorded)
    losses = [call(layer, x).sum() for call in (reentrant, not_reentrant)]
    assert len(recomputation.recorded) == before + 2
    kept = layer(x)
    with torch.no_grad():
        layer(x)
    assert len(recomputation.recorded) == before + 2
    losses[0].backward()
    del losses, kept
    gc.collect()
    assert len(recomputation.recorded) == before
    assert set(vars(layer)) == attributes
    again = pickle.loads(pickle.dumps(copy.deepcopy(layer)))
    torch.testing.assert_close(again.state_dict(), layer.state_dict())


def test_recomputing_what_was_never_seen_is_refused() -> None:
    layer = BatchRenorm1d(4)
    x = torch.randn(5, 4, requires_grad=True)
    region = {"run": lambda x: functools.reduce(lambda y, _: y.sin(), range(9), x)}
    y = not_reentrant(lambda x: region["run"](x), x)
    region["run"] = layer
    with pytest.raises(RuntimeError, match="A checkpoint runs BatchRenorm1d again"):
        y.sum().backward()
