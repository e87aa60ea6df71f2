"""torch.compile, torch.export and autocast; and that the backward in a compiled graph is the hand-written one."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from bnlab.batch_norm import BatchNorm1d, BatchRenorm1d, GhostBatchNorm1d, batch_norm
from bnlab.batch_norm.arithmetic import formulas

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own, inside the compiler
]

# "aot_eager" traces forward and backward as "inductor" does, without the seconds of the C++ compiler.
BACKENDS = ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def gradients(layer: nn.Module, x: Tensor, g: Tensor) -> list[Tensor]:
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    return [y.detach(), *torch.autograd.grad(y, [leaf, *layer.parameters()], g)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("shape", [(8, 5), (4, 5, 6)], ids=str)
def test_compiled_layer_equals_eager(shape: tuple[int, ...], momentum: float | None, backend: str) -> None:
    torch.manual_seed(0)
    eager = BatchNorm1d(5, momentum=momentum)
    compiled_of = copy.deepcopy(eager)
    compiled = torch.compile(compiled_of, fullgraph=True, backend=backend)
    for training in (True, True, False):
        x, g = torch.randn(shape) + 10, torch.randn(shape)
        eager.train(training), compiled_of.train(training)
        found, expected = gradients(compiled, x, g), gradients(eager, x, g)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(compiled_of.state_dict(), eager.state_dict(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_graph_serves_any_batch_size(backend: str) -> None:
    torch.manual_seed(0)
    layer = BatchNorm1d(5)
    graphs = CompileCounterWithBackend(backend)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=graphs)
    for num_samples in (8, 13, 21):
        x, g = torch.randn(num_samples, 5), torch.randn(num_samples, 5)
        expected = gradients(copy.deepcopy(layer), x, g)
        torch.testing.assert_close(gradients(compiled, x, g), expected, rtol=1e-4, atol=1e-5)
    assert graphs.frame_count == 1


@pytest.mark.parametrize(
    "make", [lambda: GhostBatchNorm1d(5, virtual_batch_size=4), lambda: BatchRenorm1d(5, ramp_start=0, ramp_end=2)]
)
@pytest.mark.parametrize("backend", [*BACKENDS, "aot_eager_decomp_partition"])  # which computes again in backward
def test_variants_compile(make: object, backend: str) -> None:
    torch.manual_seed(0)
    layer = make()  # type: ignore[operator]
    other = copy.deepcopy(layer)
    compiled = torch.compile(other, fullgraph=True, backend=backend)
    for _ in range(3):
        x, g = torch.randn(11, 5) * 2 + 1, torch.randn(11, 5)
        torch.testing.assert_close(gradients(compiled, x, g), gradients(layer, x, g), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other.state_dict(), layer.state_dict())


def test_stack_and_mask_compile() -> None:
    torch.manual_seed(0)
    x, mask = torch.randn(3, 8, 5), torch.rand(3, 8) < 0.7
    compiled = torch.compile(batch_norm, fullgraph=True, backend="aot_eager")
    statistics = [(torch.zeros(3, 5), torch.ones(3, 5)) for _ in range(2)]
    eps = torch.tensor([1e-5, 1e-3, 0.1])
    y = compiled(x, *statistics[0], training=True, momentum=eps, eps=eps, mask=mask, stack_dims=1)
    expected = batch_norm(x, *statistics[1], training=True, momentum=eps, eps=eps, mask=mask, stack_dims=1)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(*statistics)


COMPILED_MODES = {
    "compile": lambda f, x: torch.compile(f, fullgraph=True, backend="aot_eager")(x),
    "compile_inductor": lambda f, x: torch.compile(f, fullgraph=True)(x),
    "compile_dynamic": lambda f, x: torch.compile(f, fullgraph=True, dynamic=True, backend="aot_eager")(x),
    "vmap_of_compile": lambda f, x: torch.vmap(lambda x: f(x))(x[None])[0],
}


@pytest.mark.parametrize("mode", COMPILED_MODES)
def test_hand_written_backward_is_the_one_in_the_graph(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, g = torch.randn(8, 5), torch.randn(8, 5)
    (right,) = gradients(lambda_layer(None), x, g)[1:]
    true_backward = formulas.backward
    monkeypatch.setattr(formulas, "backward", lambda *a: tuple(3 * t for t in true_backward(*a)))
    (wrong,) = gradients(lambda_layer(COMPILED_MODES[mode]), x, g)[1:]
    torch.testing.assert_close(wrong, 3 * right, rtol=1e-4, atol=1e-5)


def lambda_layer(mode: object) -> nn.Module:
    class Layer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            def normalize(x: Tensor) -> Tensor:
                return batch_norm(x, None, None, training=True)

            return normalize(x) if mode is None else mode(normalize, x)  # type: ignore[operator]

    return Layer()


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_exported_program_equals_the_layer(training: bool, momentum: float | None) -> None:
    torch.manual_seed(0)
    layer = BatchNorm1d(5, momentum=momentum).train(training)
    layer.running_mean += 1
    x = torch.randn(8, 5)
    batch = torch.export.Dim("batch", min=2, max=1024)
    program = torch.export.export(copy.deepcopy(layer), (x,), dynamic_shapes={"input": {0: batch}}, strict=False)
    exported = program.module(check_guards=False)
    for num_samples in (8, 11):
        x = torch.randn(num_samples, 5)
        torch.testing.assert_close(exported(x), layer(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dict(exported.named_buffers()), dict(layer.named_buffers()), rtol=1e-5, atol=1e-5)


def test_autocast_normalizes_what_a_linear_layer_gives_it() -> None:
    torch.manual_seed(0)
    x = torch.randn(32, 4)
    linear = nn.Linear(4, 5)
    results = []
    for norm in (BatchNorm1d(5), nn.BatchNorm1d(5)):
        network = nn.Sequential(copy.deepcopy(linear), norm, nn.Tanh())
        with torch.autocast("cpu", torch.bfloat16):
            y = network(x)
        y.float().square().sum().backward()
        results.append((y, [p.grad for p in network.parameters()], norm.state_dict()))
    torch.testing.assert_close(*results, rtol=2e-2, atol=2e-2)


def test_fake_tensors_stay_fake() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        layer = BatchNorm1d(5)
        x = torch.randn(8, 5, requires_grad=True)
        layer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.shape == (8, 5)
