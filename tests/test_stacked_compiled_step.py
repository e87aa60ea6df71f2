"""What the step in C is handed over: looked at first, and refused in one line where it cannot be read."""

import ctypes
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bnlab.batch_norm import BatchNorm1d
from bnlab.batch_norm.back_ends import kernel
from bnlab.network import MLP
from bnlab.stacked.compiled import c_functions, step_check
from bnlab.stacked.networks.compiled_step import CompiledStep
from bnlab.stacked.networks.mlp import StackedMLP

pytestmark = pytest.mark.skipif(not kernel.is_available(), reason="no C compiler for the step")

# Of sizes whose products C takes.
X, Y = torch.randn(64, 64), torch.arange(64) % 10


def stack(convert: Callable[[MLP], object] = lambda network: None) -> StackedMLP:
    torch.manual_seed(0)
    networks = [MLP(64, 10, hidden=[100], norm=BatchNorm1d) for _ in range(2)]
    for network in networks:
        convert(network)
    return StackedMLP(networks)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (X.double(), Y),
        (X.half(), Y),
        (X, Y.int()),
        (X, Y.float()),
        (X[:, :63], Y),
        (X, Y[:63]),
        (X.expand(3, 64, 64), Y),
        (X, Y.expand(3, 64)),
        (X, torch.eye(10)[Y]),
        (X.to("meta"), Y),
    ],
    ids=[
        "double",
        "half",
        "int32",
        "float_classes",
        "narrow",
        "few_classes",
        "other_stack",
        "other_classes",
        "one_hot",
        "elsewhere",
    ],
)
def test_what_cannot_be_read_is_refused(x: Tensor, y: Tensor) -> None:
    networks = stack()
    assert networks._compiled is not None
    if networks._compiled.step(64) is None:
        pytest.skip("the step in C rounds otherwise than torch on this processor")
    with pytest.raises(ValueError, match=r"x and y must have the shapes \(2, 64, 64\) and \(2, 64\) or") as caught:
        networks.step(x, y)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["zero", "negated", "transposed", "expanded"])
def test_what_lies_otherwise_in_memory_trains_alike(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = {
        "zero": torch._efficientzerotensor((64, 64)),
        "negated": torch._neg_view(-X),
        "transposed": X.mT.contiguous().mT,
        "expanded": X[:1].expand(64, 64),
    }[kind]
    y = torch._neg_view(-Y) if kind == "negated" else Y
    in_c = stack()
    losses, hits = in_c.step(x, y)
    monkeypatch.setattr(CompiledStep, "takes", lambda layers: False)
    one_by_one = stack()
    right, right_hits = one_by_one.step(torch.zeros(64, 64) + x, Y)
    torch.testing.assert_close(losses, right)
    assert torch.equal(hits, right_hits)
    assert torch.equal(in_c.stack.gradients, one_by_one.stack.gradients)


def test_statistics_of_another_dtype_are_not_read_as_if_they_were_the_networks() -> None:
    def doubled(network: MLP) -> None:
        for module in network:
            if isinstance(module, BatchNorm1d):
                module.running_mean, module.running_var = module.running_mean.double(), module.running_var.double()

    assert stack(doubled)._compiled is None


@pytest.mark.parametrize("structure", ["LayerInC", "LossInC", "UpdateInC", "Elsewhere"])
def test_a_step_that_expects_a_structure_of_another_size_is_not_used(
    structure: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    of_python = getattr(step_check, structure)
    larger = type(structure, (of_python,), {"_fields_": (("more", ctypes.c_int64),)})
    monkeypatch.setattr(step_check, structure, larger)
    assert c_functions._library.__wrapped__() is None
    sizes = rf"is {ctypes.sizeof(of_python)}, not {ctypes.sizeof(larger)}"
    assert caplog.messages[-1].startswith("Stacks are trained operation by operation: the size of a ")
    assert sizes in caplog.messages[-1]
