"""What is not what its memory says, against torch's own layer: zero tensors, negated ones, counters and numbers of any
dtype and shape, and what hooks and conversions put in a tensor's place between forward and backward.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from bnlab.batch_norm import BatchNorm1d, BatchRenorm1d, GhostBatchNorm1d, batch_norm, use_kernel
from bnlab.batch_norm.arithmetic.arguments import Settings
from bnlab.batch_norm.back_ends import kernel, kernel_by_pointers, kernel_by_tensors

# Each makes of a tensor one with the same numbers, or with zeros in their place, that plain memory does not hold.
KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "zero": lambda t: torch._efficientzerotensor(t.shape, dtype=t.dtype),
    "part_of_zero": lambda t: torch._efficientzerotensor((len(t) + 5, *t.shape[1:]), dtype=t.dtype)[5:],
    "expanded_zero": lambda t: torch._efficientzerotensor(t.shape[1:], dtype=t.dtype).expand(t.shape),
    "negated": lambda t: torch._neg_view(-t),
    "imaginary_of_conjugate": lambda t: torch.complex(t, -t).conj().imag,
    "part": lambda t: torch.cat([t, t])[len(t) :],
    "reversed_strides": lambda t: t.mT.contiguous().mT if t.dim() > 1 else torch.stack([t, t], 1)[:, 0],
}


@pytest.fixture(params=["kernel", "kernel_asking_in_python", "plain"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param != "plain" and not kernel.is_available():
        pytest.skip("no C compiler for the CPU kernel")
    if request.param == "kernel_asking_in_python":  # as where C cannot know another torch's tensors
        monkeypatch.setattr(kernel, "run_tensors", None)
    with use_kernel(request.param != "plain"):
        yield request.param


def everything(
    layer: nn.Module, x: Tensor, g: Tensor, weight: Tensor | None = None, bias: Tensor | None = None
) -> list[Tensor]:
    """y, all gradients and buffers; with weight and bias in place of the layer's own."""
    given = {name: value for name, value in (("weight", weight), ("bias", bias)) if value is not None}
    leaves = {name: value.detach().requires_grad_() for name, value in {"x": x, **given}.items()}
    parameters = {name: leaves.get(name, parameter) for name, parameter in layer.named_parameters()}
    y = torch.func.functional_call(layer, parameters, (leaves["x"],))
    gradients = torch.autograd.grad(y, [leaves["x"], *parameters.values()], g)
    for tensor in (y, *gradients):
        assert not tensor._is_zerotensor()
        tensor.tolist()
    return [y.detach(), *gradients, *layer.buffers()]


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("where", ["input", "gradient", "weight", "bias", "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_tensors_without_plain_memory_give_what_torch_gives(kind: str, where: str, mode: str, path: str) -> None:
    torch.manual_seed(0)
    for shape in ((6, 4), (5, 4, 3), (6, 1), (6, 1, 1)):
        theirs = nn.BatchNorm1d(shape[1]).train(mode == "train")
        nn.init.normal_(theirs.weight), nn.init.normal_(theirs.bias), theirs.running_mean.normal_()
        ours = BatchNorm1d(shape[1]).train(mode == "train")
        ours.load_state_dict(theirs.state_dict())
        x, g, weight, bias = torch.randn(shape), torch.randn(shape), torch.randn(shape[1]), torch.randn(shape[1])
        tensors = {"input": x, "gradient": g, "weight": weight, "bias": bias}
        odd = {name: KINDS[kind](t) if where in (name, "all") else t for name, t in tensors.items()}
        plain = {name: torch.zeros_like(t) + t for name, t in odd.items()}
        found = everything(ours, *odd.values())
        right = everything(theirs, *(t.contiguous() for t in plain.values()))
        torch.testing.assert_close(found, right, rtol=1e-5, atol=5e-5)  # 1 / sqrt(eps) is 316


def test_a_zero_tensor_from_torchs_own_derivative_goes_through(path: str) -> None:
    x = torch.randn(6, 4, requires_grad=True)
    zero = torch.autograd.grad(torch.sgn(x).sum(), x)[0]
    assert torch.equal(BatchNorm1d(4)(zero), torch.zeros(6, 4))
    for cls in (BatchNorm1d, GhostBatchNorm1d, BatchRenorm1d):
        for mode in (True, False):
            x.grad = None
            layer = cls(4).train(mode)
            torch.sgn(layer(x)).sum().backward()
            assert x.grad.tolist() == layer.weight.grad.new_zeros(6, 4).tolist()
            assert layer.weight.grad.tolist() == layer.bias.grad.tolist() == [0.0] * 4


def test_derivatives_of_zero_and_negated_gradients_are_torchs(path: str) -> None:
    torch.manual_seed(0)
    for kind in ("zero", "negated"):
        results = []
        x, g = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
        for cls in (BatchNorm1d, nn.BatchNorm1d):
            layer, leaf = cls(4, dtype=torch.float64), x.clone().requires_grad_()
            odd = KINDS[kind](g)
            if cls is nn.BatchNorm1d:  # which itself fails on a zero tensor here
                odd = odd.clone()
            (first,) = torch.autograd.grad(layer(leaf).square(), leaf, odd, create_graph=True)
            results.append([first.detach(), *torch.autograd.grad(first.sin().sum(), [leaf, layer.weight])])
        torch.testing.assert_close(*results)


COUNTERS = {
    "int64": torch.tensor(0),
    "int32": torch.tensor(0, dtype=torch.int32),
    "uint8": torch.tensor(0, dtype=torch.uint8),
    "float32": torch.tensor(0.0),
    "float16_that_stays": torch.tensor(2047.0, dtype=torch.float16),
    "one_element": torch.tensor([3]),
    "one_element_of_three": torch.tensor([7, 3, 9])[1],
    "on_meta": torch.tensor(0, device="meta"),
}


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("counter", COUNTERS)
def test_any_counter_counts_as_torchs_does(counter: str, momentum: float | None, path: str) -> None:
    torch.manual_seed(0)
    batches = torch.randn(8, 5, 3)
    layers = [cls(3, momentum=momentum) for cls in (BatchNorm1d, nn.BatchNorm1d)]
    outcomes = []
    for layer in layers:
        neighbours = torch.full((4,), 77, dtype=COUNTERS[counter].dtype)
        if counter == "one_element_of_three":
            layer.num_batches_tracked = neighbours[1].fill_(3)
        else:
            layer.num_batches_tracked = COUNTERS[counter].clone()
        start = layer.num_batches_tracked.clone()
        try:
            for x in batches:
                layer(x)
        except RuntimeError as error:
            assert counter == "on_meta"
            outcomes.append(type(error))
            continue
        assert neighbours[2:].tolist() == [77, 77]
        outcomes.append([layer.num_batches_tracked - start, layer.running_mean, layer.running_var])
    if counter == "on_meta":
        assert [type(outcome) for outcome in outcomes] == [list if momentum else type] * 2
    else:
        torch.testing.assert_close(outcomes[0], outcomes[1])


NUMBERS = {
    "float64": torch.tensor(0.25, dtype=torch.float64),
    "float32": torch.tensor(0.25),
    "bfloat16": torch.tensor(0.25, dtype=torch.bfloat16),
    "int": torch.tensor(1),
    "bool": torch.tensor(True),
    "one_element": torch.tensor([0.25]),
    "one_element_of_two_dimensions": torch.tensor([[0.25]]),
    "python_int": 1,
    "negated": torch._neg_view(torch.tensor(-0.25)),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("number", NUMBERS)
def test_eps_and_momentum_of_any_dtype_are_the_numbers_they_hold(number: str, training: bool, path: str) -> None:
    torch.manual_seed(0)
    value = NUMBERS[number]
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = torch.randn(6, 4).to(dtype)
        results = []
        for function, given in ((batch_norm, value), (nn.functional.batch_norm, float(value))):
            mean, var, leaf = torch.zeros(4, dtype=dtype), torch.ones(4, dtype=dtype), x.clone().requires_grad_()
            y = function(leaf, mean, var, training=training, momentum=given, eps=given)
            results.append([y.detach(), *torch.autograd.grad(y, leaf, x.flip(0)), mean, var])
        close = {} if dtype.itemsize > 2 else {"rtol": 2e-2, "atol": 2e-2}
        torch.testing.assert_close(*results, **close)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int32], ids=str)
def test_numbers_a_network_of_any_dtype_and_strides(dtype: torch.dtype, path: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 6, 4)
    numbers = torch.tensor([1, 2, 3]).to(dtype) / (1 if dtype == torch.int32 else 4)
    for value in (numbers.to(dtype), torch.stack([numbers, -numbers], 1).to(dtype)[:, 0], torch._neg_view(-numbers)):
        mean, var = torch.zeros(3, 4), torch.ones(3, 4)
        y = batch_norm(x, mean, var, training=True, momentum=value, eps=value, stack_dims=1)
        for k in range(3):
            one_mean, one_var = torch.zeros(4), torch.ones(4)
            one = nn.functional.batch_norm(
                x[k], one_mean, one_var, training=True, momentum=float(numbers[k]), eps=float(numbers[k])
            )
            torch.testing.assert_close([y[k], mean[k], var[k]], [one, one_mean, one_var], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["eps", "momentum"])
@pytest.mark.parametrize("shape", [(2,), (4,), (3, 1), (1, 3), (0,), (3, 4)], ids=str)
def test_numbers_of_another_shape_are_refused(shape: tuple[int, ...], name: str, training: bool, path: str) -> None:
    statistics = torch.zeros(3, 4), torch.ones(3, 4)
    with pytest.raises(ValueError, match=rf"`{name}` must be a number or have the shape \(3,\) of the stack") as caught:
        batch_norm(torch.randn(3, 6, 4), *statistics, training=training, stack_dims=1, **{name: torch.ones(shape)})
    assert str(shape) in str(caught.value)
    assert torch.equal(statistics[0], torch.zeros(3, 4))
    if shape != (0,):
        with pytest.raises(ValueError, match=f"`{name}` must be a number, but got a tensor of shape"):
            batch_norm(torch.randn(6, 4), None, None, training=True, **{name: torch.ones(shape)})


@pytest.mark.parametrize("stack_dims", [-1, -2, 1.0, 0.0, True, False, "1", None])
def test_stack_dims_that_count_nothing_are_refused(stack_dims: object, path: str) -> None:
    for training in (True, False):
        with pytest.raises(ValueError, match="`stack_dims` must count leading dimensions of the input"):
            batch_norm(torch.randn(3, 6, 4), torch.zeros(6), torch.ones(6), training=training, stack_dims=stack_dims)


def test_eps_in_a_tensor_must_be_positive_and_wants_no_gradient(path: str) -> None:
    x = torch.randn(3, 6, 4)
    for bad in (0.0, -1.0, float("nan")):
        for eps in (torch.tensor([0.1, bad, 0.1]), torch.tensor(bad), torch.tensor([0.1, bad, 0.1]).double()):
            with pytest.raises(ValueError, match="eps must be positive during training"):
                batch_norm(x, None, None, training=True, eps=eps, stack_dims=1)
            if bad != 0:
                with pytest.raises(ValueError, match="eps must be non-negative"):
                    batch_norm(x, torch.zeros(3, 4), torch.ones(3, 4), eps=eps, stack_dims=1)
    for name in ("eps", "momentum"):
        with pytest.raises(ValueError, match=f"`{name}` has no gradient"):
            batch_norm(x[0], None, None, training=True, **{name: torch.tensor(0.1, requires_grad=True)})
        with pytest.raises(TypeError, match=f"`{name}` must be a number"):
            batch_norm(x[0], None, None, training=True, **{name: "0.1"})


def test_each_network_of_a_stack_may_count_for_itself(path: str) -> None:
    batches = torch.randn(4, 2, 6, 3)
    mean, var, counter = torch.zeros(2, 3), torch.ones(2, 3), torch.tensor([0, 4])
    for x in batches:
        batch_norm(x, mean, var, None, None, True, None, stack_dims=1, num_batches_tracked=counter)
    assert counter.tolist() == [4, 8]
    torch.testing.assert_close(mean[0], batches[:, 0].mean((0, 1)))
    torch.testing.assert_close(mean[1], sum(batches[:, 1].mean(1)) / 8, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"must be one number or have the shape \(2,\)"):
        batch_norm(x, mean, var, None, None, True, None, stack_dims=1, num_batches_tracked=torch.zeros(3))


def test_what_a_hook_puts_in_place_of_the_gradient_is_looked_at(path: str) -> None:
    torch.manual_seed(0)
    x, g = torch.randn(6, 4), torch.randn(6, 4)
    layer, leaf = BatchNorm1d(4), x.clone().requires_grad_()
    right = torch.autograd.grad(layer(leaf), [leaf, layer.weight], g)
    for change in (lambda t: t.mT.contiguous().mT, lambda t: torch._neg_view(-t)):
        y = layer(leaf)
        y.grad_fn.register_prehook(lambda given, change=change: (change(given[0]), *given[1:]))
        torch.testing.assert_close(torch.autograd.grad(y, [leaf, layer.weight], g), right)


def test_what_a_hook_saves_in_place_of_the_tensors_is_looked_at(path: str) -> None:
    torch.manual_seed(0)
    x, g = torch.randn(6, 4), torch.randn(6, 4)
    layer, leaf = BatchNorm1d(4), x.clone().requires_grad_()
    right = torch.autograd.grad(layer(leaf), [leaf, layer.weight], g)
    unpacks: list[Callable[[Tensor], Tensor]] = [lambda t: torch._neg_view(-t), lambda t: t]
    for unpack in unpacks:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().clone(), unpack):
            y = layer(leaf)
        torch.testing.assert_close(torch.autograd.grad(y, [leaf, layer.weight], g), right, rtol=1e-5, atol=1e-5)
    if path == "kernel":  # torch's own operations refuse such a mixture
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.bfloat16() if t.dim() == 2 else t, lambda t: t):
            y = layer(leaf)
        torch.testing.assert_close(torch.autograd.grad(y, [leaf, layer.weight], g), right, rtol=5e-2, atol=5e-2)


def test_a_weight_converted_between_forward_and_backward_is_not_misread(path: str) -> None:
    torch.manual_seed(0)
    x, g = torch.randn(6, 4), torch.randn(6, 4)
    layer = BatchNorm1d(4)
    nn.init.normal_(layer.weight)
    leaf = x.clone().requires_grad_()
    (right,) = torch.autograd.grad(layer(leaf), leaf, g)
    for convert in (
        lambda: layer.double(),
        lambda: setattr(layer.weight, "data", torch.stack([layer.weight] * 2, 1)[:, 0]),
    ):
        layer.float()
        y = layer(leaf)
        convert()
        torch.testing.assert_close(torch.autograd.grad(y, leaf, g)[0], right)


def test_running_statistics_in_one_place_move_as_torchs(path: str) -> None:
    torch.manual_seed(0)
    for shape in ((6, 4), (5, 4, 3)):
        x = torch.randn(shape)
        for function in (batch_norm, nn.functional.batch_norm):
            both = torch.full((4,), 2.0)
            y = function(x, both, both, training=True)
            if function is batch_norm:
                found = y, both
        torch.testing.assert_close(found, (y, both), rtol=1e-5, atol=1e-6)


def test_inference_tensors_are_taken_and_refused_as_by_torch(path: str) -> None:
    x = torch.randn(6, 4)
    with torch.inference_mode():
        inside = [cls(4) for cls in (BatchNorm1d, nn.BatchNorm1d)]
        torch.testing.assert_close(*(layer(x) for layer in inside))
    for layer in inside:
        with pytest.raises(
            RuntimeError, match=r"Inplace update to inference tensor outside|Inference tensors cannot be"
        ):
            layer(x)
        with torch.no_grad():
            layer.eval()(x)
    torch.testing.assert_close(inside[0].running_mean, inside[1].running_mean)
    assert inside[0].num_batches_tracked == inside[1].num_batches_tracked


FREED = {
    "all": lambda t: freed(t, t),
    "part": lambda t: freed(whole := torch.cat([t, t]), whole[len(t) :]),
}


def freed(whole: Tensor, tensor: Tensor) -> Tensor:
    whole.untyped_storage().resize_(0)
    return tensor


@pytest.mark.parametrize("mode", ["train", "eval", "mask", "half"])
@pytest.mark.parametrize("where", ["input", "weight", "running_var"])
@pytest.mark.parametrize("what", FREED)
def test_memory_that_was_freed_is_an_error_in_forward(what: str, where: str, mode: str, path: str) -> None:
    layer, x = BatchNorm1d(4).train(mode != "eval"), torch.randn(6, 4)
    if mode == "half":
        layer, x = layer.half(), x.half()
    if where == "input":
        x = FREED[what](x)
    elif where == "weight":
        layer.weight.data = FREED[what](layer.weight.data)
    else:
        layer.running_var = FREED[what](layer.running_var)
    mask = torch.ones(6, dtype=torch.bool) if mode == "mask" else None
    with pytest.raises(RuntimeError, match=r"Batch norm must read its tensors, but the memory of one, .* been freed"):
        layer(x, mask)
    assert layer.num_batches_tracked == 0


@pytest.mark.parametrize("mode", ["train", "eval", "mask", "half"])
@pytest.mark.parametrize("where", ["input", "gradient", "weight"])
def test_memory_that_was_freed_is_an_error_in_backward(where: str, mode: str, path: str) -> None:
    layer, x = BatchNorm1d(4).train(mode != "eval"), torch.randn(6, 4)
    if mode == "half":
        layer, x = layer.half(), x.half()
    y = layer(x.requires_grad_(), torch.ones(6, dtype=torch.bool) if mode == "mask" else None)
    g = torch.ones_like(y)
    {"input": x.data, "gradient": g, "weight": layer.weight.data}[where].untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match=r"Batch norm must read its tensors, but the memory of one, .* been freed"):
        y.backward(g)


def test_storage_that_was_cut_short_is_not_read_past_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    if not kernel.knows_tensors():
        pytest.skip("no C compiler for the CPU kernel, or it does not know this torch's tensors")
    x = torch.randn(6, 4)
    settings = Settings(None, None, None, 0.1, 1e-5, None, 0)
    monkeypatch.setattr(kernel_by_pointers, "takes", lambda *arguments: False)
    x.untyped_storage().resize_(95)
    with pytest.raises(kernel_by_tensors.UnreadableError):
        kernel_by_tensors.forward(x, None, None, settings)
    x.untyped_storage().resize_(96)
    kernel_by_tensors.forward(x, None, None, settings)


def test_the_kernel_knows_the_tensors_of_the_torch_that_it_is_tested_with() -> None:
    """Else everything works, and takes longer than torch's own layer does."""
    assert kernel.knows_tensors() == kernel.is_available()


def test_what_asks_in_c_and_what_asks_in_python_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    if not kernel.knows_tensors():
        pytest.skip("no C compiler for the CPU kernel, or it does not know this torch's tensors")
    for shape in ((60, 100), (5, 3, 7), (2, 1), (9, 4, 1)):
        for dtype in (torch.float32, torch.float64):
            results = []
            for run_tensors in (kernel.run_tensors, None):
                monkeypatch.setattr(kernel, "run_tensors", run_tensors)
                torch.manual_seed(0)
                layer, x, g = BatchNorm1d(shape[1], dtype=dtype), torch.randn(shape, dtype=dtype), torch.randn(shape)
                results.append(everything(layer, x, g.to(dtype)))
            monkeypatch.undo()
            torch.testing.assert_close(*results, rtol=0, atol=0)
