"""The layer against torch's own: values, gradients, state, errors; by the CPU kernel and by plain operations."""

import copy
import io
import pickle
import warnings
from collections.abc import Iterator

import pytest
import torch
from this_torch import norms_without_bias, refuses_eps
from torch import Tensor, nn

from bnlab.batch_norm import BatchNorm1d, batch_norm, use_kernel
from bnlab.batch_norm.back_ends import kernel

OPTIONS = {
    "default": {},
    "not_affine": {"affine": False},
    "no_bias": {"bias": False},
    "untracked": {"track_running_stats": False},
    "momentum_none": {"momentum": None},
    "momentum_negative": {"momentum": -0.5},
    "eps_and_momentum": {"eps": 0.1, "momentum": 0.7},
}
OF_THIS_TORCH = [pytest.param(name, marks=[norms_without_bias] if name == "no_bias" else []) for name in OPTIONS]


@pytest.fixture(params=["kernel", "plain"])
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "kernel" and not kernel.is_available():
        pytest.skip("no C compiler for the CPU kernel")
    with use_kernel(request.param == "kernel"):
        yield request.param


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 3), (3, 5), (1, 5, 3), (300, 5), (4, 5, 300)], ids=str)
@pytest.mark.parametrize("options", OF_THIS_TORCH)
def test_batch_norm_matches_torch(options: str, shape: tuple[int, ...], mode: str, path: str) -> None:
    torch.manual_seed(0)
    ours, theirs = BatchNorm1d(5, **OPTIONS[options]), nn.BatchNorm1d(5, **OPTIONS[options])
    if ours.weight is not None:
        nn.init.normal_(ours.weight)
    theirs.load_state_dict(ours.state_dict())
    for _ in range(3):
        x, g = torch.randn(shape) * 3 + 1, torch.randn(shape)
        ours.train(mode == "train"), theirs.train(mode == "train")
        x_ours, x_theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        y_ours, y_theirs = ours(x_ours), theirs(x_theirs)
        torch.testing.assert_close(y_ours, y_theirs, rtol=1e-5, atol=2e-6)
        y_ours.backward(g), y_theirs.backward(g)
        torch.testing.assert_close(x_ours.grad, x_theirs.grad, rtol=1e-5, atol=5e-6)
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=2e-5)
        torch.testing.assert_close(dict(ours.named_buffers()), dict(theirs.named_buffers()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "layout", ["transposed", "sliced", "expanded_gradient", "strided_parameters", "channels_moved"]
)
def test_batch_norm_matches_torch_for_any_strides(layout: str, path: str) -> None:
    torch.manual_seed(0)
    x, g, weight = torch.randn(6, 4), torch.randn(6, 4), torch.randn(4)
    if layout == "transposed":
        x, g = torch.randn(4, 6).t(), torch.randn(4, 6).t()
    elif layout == "sliced":
        x = torch.randn(12, 8)[::2, ::2]
    elif layout == "expanded_gradient":
        g = torch.randn(()).expand(6, 4)
    elif layout == "strided_parameters":
        weight = torch.randn(8)[::2]
    else:
        x, g = torch.randn(6, 3, 4).transpose(1, 2), torch.randn(6, 4, 3)
    leaves = [tensor.detach().requires_grad_() for tensor in (x, weight)]
    ours = batch_norm(leaves[0], None, None, leaves[1], None, True)
    # torch 2.15 itself reads a strided weight as if it were contiguous, in backward.
    theirs = nn.functional.batch_norm(leaves[0], None, None, leaves[1].contiguous(), None, True)
    assert ours.stride() == theirs.stride()
    torch.testing.assert_close(ours, theirs)
    for p, q in zip(torch.autograd.grad(ours, leaves, g), torch.autograd.grad(theirs, leaves, g), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_batch_norm_agrees_on_torchs_own_samples(dtype: torch.dtype, training: bool, path: str) -> None:
    pytest.importorskip("expecttest", reason="torch's test samples import it")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about hypothesis
        from torch.testing._internal.common_methods_invocations import op_db
        from torch.testing._internal.common_modules import module_db

    close = {} if dtype.itemsize > 2 else {"rtol": 3e-2, "atol": 3e-2}
    module_info = next(info for info in module_db if info.module_cls is nn.BatchNorm1d)
    for sample in module_info.module_inputs_func(
        module_info, device="cpu", dtype=dtype, requires_grad=True, training=training
    ):
        made = sample.constructor_input
        ours, theirs = (
            cls(*made.args, **made.kwargs).to(dtype).train(training) for cls in (BatchNorm1d, nn.BatchNorm1d)
        )
        given = sample.forward_input
        torch.testing.assert_close(ours(*given.args, **given.kwargs), theirs(*given.args, **given.kwargs), **close)
    op_info = next(info for info in op_db if info.name == "nn.functional.batch_norm")
    num_samples = 0
    for sample in op_info.sample_inputs("cpu", dtype, requires_grad=True):
        if sample.kwargs.get("training", False) != training:
            continue
        buffers = [[None if b is None else b.detach().clone() for b in sample.args] for _ in range(2)]
        ours = batch_norm(sample.input, *buffers[0], **sample.kwargs)
        theirs = nn.functional.batch_norm(sample.input, *buffers[1], **sample.kwargs)
        torch.testing.assert_close(ours, theirs, **close)
        torch.testing.assert_close(buffers[0], buffers[1], **close)
        given = [sample.input, sample.kwargs.get("weight"), sample.kwargs.get("bias")]
        leaves = [leaf for leaf in given if leaf is not None]
        g = torch.randn_like(theirs)
        gradients = [torch.autograd.grad(y, leaves, g, allow_unused=True) for y in (ours, theirs)]
        torch.testing.assert_close(gradients[0], gradients[1], **close)
        num_samples += 1
    assert num_samples > 3


def outcome(function: object, *args: object, **kwargs: object) -> str:
    try:
        y = function(*args, **kwargs)  # type: ignore[operator]
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return f"{y.dtype} {tuple(y.shape)} {y.device}"


X, ZERO, ONE = torch.randn(4, 3), torch.zeros(3), torch.ones(3)
CALLS = {
    "mean_too_long": (X, torch.zeros(4), ONE, None, None, True),
    "weight_too_long": (X, None, None, torch.ones(4), None, True),
    "bias_too_long": (X, None, None, ONE, torch.ones(4), True),
    "no_statistics": (X, None, None),
    "half_the_statistics": (X, ZERO, None, None, None, True),
    "no_variance": (X, ZERO, None),
    "one_dimension": (X[0], None, None, None, None, True),
    "one_sample": (X[:1], None, None, None, None, True),
    "one_value": (X[:1, :, None], None, None, None, None, True),
    "eps_zero": (X, None, None, None, None, True, 0.1, 0.0),
    "eps_zero_in_evaluation": (X, ZERO, ONE, None, None, False, 0.1, 0.0),
    "eps_negative": (X, ZERO, ONE, None, None, False, 0.1, -1.0),
    "no_samples": (X[:0], ZERO, ONE, ONE, ONE, True),
    "no_samples_in_evaluation": (X[:0], ZERO, ONE),
    "no_channels": (X[:, :0], torch.zeros(0), torch.ones(0), None, None, True),
    "no_length": (torch.randn(4, 3, 0), ZERO, ONE, None, None, True),
    "nothing_at_all": (torch.randn(0), None, None, None, None, True),
    "more_dimensions": (torch.randn(2, 3, 2, 2, 2), ZERO, ONE, ONE, ONE, True),
    "mean_with_gradient": (X, torch.zeros(3, requires_grad=True), ONE, None, None, True),
    "integers": (X.long(), None, None, None, None, True),
    "complex": (X.to(torch.complex64), None, None, None, None, True),
    "double_weight": (X, ZERO, ONE, ONE.double(), None, True),
    "float_weight": (X.double(), ZERO.double(), ONE.double(), ONE, None, True),
    "all_float_but_x": (X.double(), ZERO, ONE, ONE, None, True),
    "double_buffers": (X, ZERO.double(), ONE.double(), ONE, None, True),
    "half_with_fp32": (X.half(), ZERO, ONE, ONE, ONE, True),
    "half_with_other_half": (X.half(), ZERO, ONE, ONE.bfloat16(), None, True),
    "meta": (X.to("meta"), ZERO.to("meta"), ONE.to("meta"), None, None, True),
    "weight_elsewhere": (X, None, None, ONE.to("meta"), None, True),
}


@pytest.mark.parametrize(
    "call",
    [pytest.param(call, marks=[refuses_eps] if call in ("eps_zero", "eps_negative") else []) for call in CALLS],
)
def test_functional_form_accepts_and_refuses_what_torch_does(call: str, path: str) -> None:
    arguments = [[a.clone() if isinstance(a, Tensor) and a.is_leaf else a for a in CALLS[call]] for _ in range(2)]
    for given in arguments:
        if call == "mean_with_gradient":
            given[1] = torch.zeros(3, requires_grad=True)
    assert outcome(batch_norm, *arguments[0]) == outcome(nn.functional.batch_norm, *arguments[1])
    if call.startswith("no_") and isinstance(arguments[0][1], Tensor):
        torch.testing.assert_close(arguments[0][1:3], arguments[1][1:3])


@pytest.mark.parametrize("shape", [(3,), (1, 3), (2, 4), (2, 3, 2, 2)], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_layer_refuses_what_torchs_does(shape: tuple[int, ...], training: bool, path: str) -> None:
    x = torch.randn(shape)
    assert outcome(BatchNorm1d(3).train(training), x) == outcome(nn.BatchNorm1d(3).train(training), x)


@pytest.mark.parametrize("options", OF_THIS_TORCH)
def test_layer_looks_and_stores_like_torchs(options: str) -> None:
    torch.manual_seed(0)  # a negative momentum may make a running variance negative, and that compares with nothing
    ours, theirs = BatchNorm1d(5, **OPTIONS[options]), nn.BatchNorm1d(5, **OPTIONS[options])
    assert repr(ours) == repr(theirs)
    assert isinstance(ours, nn.modules.batchnorm._BatchNorm)
    ours(torch.randn(4, 5)), theirs(torch.randn(4, 5))
    state = ours.state_dict()
    assert list(state) == list(theirs.state_dict())
    assert state._metadata == theirs.state_dict()._metadata
    theirs.load_state_dict(state)
    old = {name: value for name, value in state.items() if name != "num_batches_tracked"}  # of version 1
    BatchNorm1d(5, **OPTIONS[options]).load_state_dict(old)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    BatchNorm1d(5, **OPTIONS[options]).load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(4, 5)
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        torch.testing.assert_close(copied.eval()(x), copy.deepcopy(ours).eval()(x), rtol=0, atol=0)


def test_layer_lives_where_and_as_what_it_is_asked_to() -> None:
    layer = BatchNorm1d(3, device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in layer.parameters()} == {("meta", torch.float64)}
    assert layer(torch.randn(4, 3, device="meta", dtype=torch.float64)).shape == (4, 3)
    assert layer.num_batches_tracked.dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("parameters", ["half", "fp32"])
def test_half_types_are_computed_in_fp32(dtype: torch.dtype, parameters: str) -> None:
    torch.manual_seed(0)
    x, g = (torch.randn(64, 5) * 3 + 10).to(dtype).requires_grad_(), torch.randn(64, 5).to(dtype)
    layer = BatchNorm1d(5, dtype=dtype if parameters == "half" else torch.float32)
    y = layer(x)
    (grad_x,) = torch.autograd.grad(y, x, g)
    exact_x = x.detach().double().requires_grad_()
    exact = nn.functional.batch_norm(exact_x, None, None, training=True)
    (exact_grad,) = torch.autograd.grad(exact, exact_x, g.double())
    assert y.dtype == grad_x.dtype == dtype
    half_ulp = torch.finfo(dtype).eps / 2
    assert ((y - exact).abs() <= 1.01 * half_ulp * exact.abs() + 1e-6).all()  # rounded once, at the end
    assert ((grad_x - exact_grad).abs() <= 1.05 * half_ulp * exact_grad.abs() + 1e-6).all()


def test_parametrized_weight_is_used() -> None:
    class Doubled(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    x = torch.randn(5, 3)
    layer = BatchNorm1d(3)
    plain = layer(x)
    nn.utils.parametrize.register_parametrization(layer, "weight", Doubled())
    torch.testing.assert_close(layer(x), 2 * plain)


def test_buffers_may_be_written_between_forward_and_backward(path: str) -> None:
    for mode in (True, False):
        layer = BatchNorm1d(3).train(mode)
        x = torch.randn(5, 3, requires_grad=True)
        before = torch.autograd.grad(layer(x).square().sum(), [x, layer.weight])
        layer.reset_running_stats()
        y = layer(x)
        layer.running_mean.add_(1), layer.running_var.fill_(7)
        torch.testing.assert_close(torch.autograd.grad(y.square().sum(), [x, layer.weight])[0].shape, before[0].shape)
        layer.reset_running_stats()
        y = layer(x)
        layer.reset_running_stats(), layer.running_var.add_(3)
        after = torch.autograd.grad(y.square().sum(), [x, layer.weight])
        if mode:
            torch.testing.assert_close(after, before, rtol=0, atol=0)


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_checkpointing_counts_a_batch_once(use_reentrant: bool, momentum: float | None, path: str) -> None:
    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 3), BatchNorm1d(3, momentum=momentum), nn.Tanh())
    checkpointed = copy.deepcopy(plain)
    for _ in range(2):
        x = torch.randn(6, 4, requires_grad=True)
        plain(x).square().sum().backward()
        checkpoint(checkpointed, x, use_reentrant=use_reentrant).square().sum().backward()
    assert checkpointed[1].num_batches_tracked == 2
    torch.testing.assert_close(checkpointed.state_dict(), plain.state_dict(), rtol=0, atol=0)
    for p, q in zip(checkpointed.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
