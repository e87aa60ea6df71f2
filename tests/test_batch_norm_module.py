"""The layer goes wherever torch.nn.BatchNorm1d goes: graphs of torch.fx, traces, scripts, exports, fusing."""

import copy
import io
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import fuse_modules
from torch.ao.quantization.fuser_method_mappings import fuse_linear_bn
from torch.fx.experimental.optimization import fuse
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from bnlab.batch_norm import BatchNorm1d, BatchRenorm1d, GhostBatchNorm1d, batch_norm
from bnlab.errors import UserError
from bnlab.network import MLP

LAYERS = [BatchNorm1d, GhostBatchNorm1d, BatchRenorm1d]


def network(cls: type[nn.Module], with_length: bool) -> nn.Sequential:
    torch.manual_seed(0)
    first = nn.Conv1d(4, 3, 3) if with_length else nn.Linear(4, 3)
    net = nn.Sequential(first, nn.Sequential(cls(3), nn.Tanh()), nn.Flatten(), nn.Linear(9 if with_length else 3, 2))
    nn.init.normal_(net[1][0].weight), net[1][0].running_mean.normal_(), net[1][0].running_var.uniform_(0.5, 2)
    return net


def batch(with_length: bool, num_samples: int = 70) -> Tensor:
    return torch.randn(num_samples, 4, 5) if with_length else torch.randn(num_samples, 4)


@pytest.mark.parametrize("cls", LAYERS)
def test_every_layer_is_a_torch_batch_norm(cls: type[nn.Module]) -> None:
    assert isinstance(cls(3), nn.BatchNorm1d)
    assert not isinstance(nn.BatchNorm1d(3), cls)


@pytest.mark.parametrize("with_length", [False, True])
@pytest.mark.parametrize("traced_in", ["train", "eval"])
@pytest.mark.parametrize("cls", LAYERS)
def test_a_traced_graph_is_the_network_in_every_mode(cls: type[nn.Module], traced_in: str, with_length: bool) -> None:
    net = network(cls, with_length).train(traced_in == "train")
    graph = torch.fx.symbolic_trace(copy.deepcopy(net))
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"][1] == "1.0"
    for mode in (True, False, True):
        x = batch(with_length)
        results = []
        for each in (net, graph):
            leaf = x.clone().requires_grad_()
            y = each.train(mode)(leaf)
            results.append([y, *torch.autograd.grad(y.square().sum(), [leaf, *each.parameters()])])
        torch.testing.assert_close(*results, rtol=0, atol=0)
    torch.testing.assert_close(graph.state_dict(), net.state_dict(), rtol=0, atol=0)
    assert graph.get_submodule("1.0").num_batches_tracked == 2


def test_a_traced_graph_keeps_hooks_masks_and_what_a_subclass_adds() -> None:
    class Doubled(BatchNorm1d):
        def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
            return 2 * super().forward(input, mask)

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.named = Doubled(4), BatchNorm1d(4)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.named(input=self.norm(x, mask) + 1, mask=mask)

    net = Masked()
    net.norm.register_forward_hook(lambda module, inputs, y: 3 * y)
    net.norm.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1, *inputs[1:]))
    graph = torch.fx.symbolic_trace(copy.deepcopy(net))
    x, mask = torch.randn(6, 4), torch.rand(6) < 0.7
    torch.testing.assert_close(graph(x, mask), net(x, mask), rtol=0, atol=0)
    again = torch.fx.symbolic_trace(graph)
    torch.testing.assert_close(again(x, mask), net(x, mask), rtol=0, atol=0)
    moved = torch.fx.Transformer(graph).transform()
    torch.testing.assert_close(moved(x, mask), net(x, mask), rtol=0, atol=0)
    mlp = MLP(4, 2, hidden=[5, 5]).eval()
    torch.testing.assert_close(torch.fx.symbolic_trace(mlp)(x), mlp(x), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("cls", LAYERS)
def test_a_trace_can_be_saved_and_agrees_on_batches_of_any_size(cls: type[nn.Module]) -> None:
    for with_length in (False, True):
        net = network(cls, with_length).eval()
        loaded = saved(torch.jit.trace(net, batch(with_length)))
        for num_samples in (70, 3, 1):
            x = batch(with_length, num_samples).requires_grad_()
            results = [[each(x), *torch.autograd.grad(each(x).square().sum(), x)] for each in (loaded, net)]
            torch.testing.assert_close(*results)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
def test_a_trace_in_training_mode_learns_as_the_layer_does() -> None:
    net = BatchNorm1d(4)
    traced = saved(torch.jit.trace(copy.deepcopy(net), torch.randn(8, 4), check_trace=False))
    traced.load_state_dict(net.state_dict())
    x, g = torch.randn(5, 4, requires_grad=True), torch.randn(5, 4)
    gradients = [torch.autograd.grad(each(x), [x, *each.parameters()], g) for each in (traced, net)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(traced.state_dict(), dict(net.state_dict()))
    with pytest.raises(RuntimeError, match="running_mean should contain 3 elements not 4"):
        torch.jit.trace(BatchNorm1d(4), torch.randn(8, 3))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
def test_a_script_is_of_torchs_own_layer() -> None:
    net = network(BatchNorm1d, False)
    scripted = saved(torch.jit.script(copy.deepcopy(net)))
    x = batch(False)
    torch.testing.assert_close(scripted(x), net(x))
    torch.testing.assert_close(scripted.eval()(x), net.eval()(x))
    with pytest.raises(UserError, match=r"not a GhostBatchNorm1d: use `torch\.jit\.trace`"):
        torch.jit.script(network(GhostBatchNorm1d, False))


def saved(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    return torch.jit.load(file)


@pytest.mark.parametrize("cls", LAYERS)
def test_an_exported_network_agrees(cls: type[nn.Module]) -> None:
    net, x = network(cls, False).eval(), batch(False)
    torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), net(x))


@pytest.mark.parametrize("cls", LAYERS)
def test_torchs_ways_of_fusing_take_the_layer_or_say_no(cls: type[nn.Module]) -> None:
    for with_length, fuse_both in ((False, fuse_linear_bn_eval), (True, fuse_conv_bn_eval)):
        net, x = network(cls, with_length).eval(), batch(with_length)
        torch.testing.assert_close(fuse_both(net[0], net[1][0])(x), net[1][0](net[0](x)), rtol=1e-5, atol=1e-5)
    net, x = nn.Sequential(nn.Linear(4, 3), cls(3)).eval(), batch(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is deprecated
        with pytest.raises(AssertionError, match="did not find fuser method"):
            fuse_modules(net, [["0", "1"]])
        custom = {"additional_fuser_method_mapping": {(nn.Linear, cls): fuse_linear_bn}}
        fused = fuse_modules(net, [["0", "1"]], fuse_custom_config_dict=custom)
        optimized = fuse(net)
    assert isinstance(fused[1], nn.Identity)
    torch.testing.assert_close(fused(x), net(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(optimized(x), net(x), rtol=1e-5, atol=1e-5)


def test_the_function_is_one_node_of_a_traced_graph() -> None:
    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(3))
            self.register_buffer("var", torch.ones(3))

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return batch_norm(2 * x, self.mean, self.var, training=True, momentum=0.3, mask=mask).relu()

    x, mask, network = torch.randn(6, 3), torch.arange(6) > 1, Network()
    graph = torch.fx.symbolic_trace(copy.deepcopy(network))
    assert [node.target for node in graph.graph.nodes].count(batch_norm) == 1
    torch.testing.assert_close(graph(x, mask), network(x, mask), rtol=0, atol=0)
    torch.testing.assert_close(dict(graph.named_buffers()), dict(network.named_buffers()), rtol=0, atol=0)
