"""The layer with all its arguments, drawn at random, against the formulas in float64 under autograd."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from bnlab.batch_norm import batch_norm, use_kernel

PRECISION = {torch.float64: 1e-12, torch.float32: 3e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}
LAYOUTS = ("contiguous", "transposed", "sliced", "offset", "negated", "zero")


@dataclass(frozen=True)
class Case:
    """What is drawn; the numbers themselves come from `seed`."""

    seed: int
    stack: tuple[int, ...]
    num_samples: int
    num_features: int
    length: int | None
    dtype: torch.dtype
    parameters: frozenset[str]
    parameter_dtype: str
    statistics: bool
    training: bool
    momentum: str
    eps: str
    counter: str
    mask: str
    layouts: dict[str, str]
    needs: frozenset[str]
    kernel: bool
    offset: float


@st.composite
def cases(draw: st.DrawFn) -> Case:
    stack = draw(st.sampled_from([(), (), (), (1,), (3,), (2, 2)]))
    training = draw(st.booleans())
    dtype = draw(st.sampled_from([torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16]))
    parameters = draw(st.sampled_from([("weight", "bias"), ("weight", "bias"), ("weight",), ("bias",), ()]))
    needs = draw(st.sets(st.sampled_from(["x", *parameters])))
    # A network's own numbers only where there are several; torch wants running statistics to evaluate with.
    of_stack = ["stack_float64", "stack_bfloat16", "stack_strided", "stack_negated"] if stack else []
    statistics = draw(st.booleans()) or not training
    numbers = ["float", "int", "float64", "float32", "bfloat16", "one_element", *of_stack]
    return Case(
        seed=draw(st.integers(0, 2**31)),
        stack=stack,
        num_samples=draw(st.sampled_from([1, 2, 3, 4, 5, 7, 16, 33, 130])),
        num_features=draw(st.sampled_from([1, 2, 3, 5, 17, 40])),
        length=draw(st.sampled_from([None, None, 1, 2, 5, 33])),
        dtype=dtype,
        parameters=frozenset(parameters),
        parameter_dtype=draw(st.sampled_from(["same", "fp32"])) if dtype.itemsize == 2 else "same",
        statistics=statistics,
        training=training,
        momentum=draw(st.sampled_from([*numbers, "none", "none"])),
        eps=draw(st.sampled_from(numbers)),
        counter=draw(st.sampled_from(["none", "int64", "int64", "int32", "uint8", "float32", "one_element", "part"])),
        mask=draw(st.sampled_from(["none", "none", "some", "all", "nothing", "expanded"])),
        layouts={name: draw(st.sampled_from(LAYOUTS)) for name in ("x", "gradient", "weight", "bias")},
        needs=frozenset(needs),
        kernel=draw(st.booleans()),
        offset=draw(st.sampled_from([0.0, 1.0, 100.0])),
    )


def laid_out(values: Tensor, layout: str) -> Tensor:
    """The same numbers (or zeros) lying in memory in another way."""
    if layout == "transposed" and values.dim() > 1:
        return values.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "sliced":
        return torch.stack([values, torch.full_like(values, torch.nan)], -1)[..., 0]
    if layout == "offset":
        return torch.cat([values.new_full((3,), torch.nan), values.flatten()])[3:].view(values.shape)
    if layout == "negated":
        return torch._neg_view(-values)
    if layout == "zero":
        return torch._efficientzerotensor(values.shape, dtype=values.dtype)
    return values


def number(kind: str, exact: Tensor) -> Any:
    """eps or momentum, (*stack) or of one number, from its exact values; and these again where the kind rounds them."""
    one = float(exact.flatten()[0])
    if kind == "none":
        return None
    if kind == "int":
        return 1
    if kind == "float":
        return one
    if kind == "one_element":
        return torch.tensor([one], dtype=torch.float64)
    if kind == "stack_strided":
        return torch.stack([exact, exact + 1], -1)[..., 0]
    if kind == "stack_negated":
        return torch._neg_view(-exact)
    if kind.startswith("stack_"):
        return exact.to(getattr(torch, kind.removeprefix("stack_")))
    return torch.tensor(one, dtype=getattr(torch, kind))


def counter_of(kind: str) -> Tensor | None:
    if kind == "none":
        return None
    if kind == "one_element":
        return torch.tensor([3])
    if kind == "part":
        return torch.tensor([7, 3, 9])[1]
    return torch.tensor(3, dtype=getattr(torch, kind))


def mask_of(kind: str, shape: tuple[int, ...]) -> Tensor | None:
    if kind == "none":
        return None
    if kind == "expanded":
        return (torch.rand(shape[-1]) < 0.6).expand(shape)
    return torch.rand(shape) < {"some": 0.6, "all": 2.0, "nothing": -1.0}[kind]


def reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    training: bool,
    momentum: Tensor,
    eps: Tensor,
    mask: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """y and the running statistics afterwards, in float64: x (K, N, C, L), per channel (K, C), numbers (K, 1)."""
    valid = mask.sum((1, 2)).unsqueeze(1)  # (K, 1)
    counts = mask.unsqueeze(2)  # (K, N, 1, L)
    kept = torch.where(counts, x, 0)
    if training:
        n = valid.clamp(min=1)
        batch_mean = kept.sum((1, 3)) / n
        centered = torch.where(counts, x - batch_mean[:, None, :, None], 0)
        batch_var = centered.square().sum((1, 3)) / n
        unbiased = batch_var * n / (n - 1).clamp(min=1)
        new_mean = torch.where(valid > 0, mean + momentum * (batch_mean - mean), mean)
        new_var = torch.where(valid > 1, var + momentum * (unbiased - var), var)
    else:
        batch_mean, batch_var, new_mean, new_var = mean, var, mean, var
    scale = weight / torch.sqrt(batch_var + eps)
    y = (x - batch_mean[:, None, :, None]) * scale[:, None, :, None] + bias[:, None, :, None]
    return torch.where(counts, y, 0), new_mean.detach(), new_var.detach()


def check(case: Case) -> None:
    torch.manual_seed(case.seed)
    stack, C = case.stack, case.num_features
    shape = (*stack, case.num_samples, C) + (() if case.length is None else (case.length,))
    parameter_dtype = torch.float32 if case.parameter_dtype == "fp32" else case.dtype
    channels = (*stack, C)
    offset = case.offset if case.dtype.itemsize > 2 else 0.0
    x = laid_out((torch.randn(shape, dtype=torch.float64) + offset).to(case.dtype), case.layouts["x"])
    gradient = laid_out(torch.randn(shape, dtype=torch.float64).to(case.dtype), case.layouts["gradient"])
    parameters = {
        name: laid_out(torch.randn(channels, dtype=torch.float64).to(parameter_dtype), case.layouts[name])
        for name in sorted(case.parameters)
    }
    mean, var = torch.randn(channels).to(parameter_dtype), (torch.rand(channels) + 0.5).to(parameter_dtype)
    momentum = number(case.momentum, torch.rand(stack, dtype=torch.float64) + 0.01)
    eps = number(case.eps, torch.rand(stack, dtype=torch.float64) + 0.01)
    counter = counter_of(case.counter)
    mask = mask_of(case.mask, (*stack, case.num_samples) + (() if case.length is None else (case.length,)))

    # In float64, (K, N, C, L).
    K = max(1, torch.Size(stack).numel())

    def exact(values: Tensor, *sizes: int) -> Tensor:
        # Added up: a copy of a negated or a zero tensor may be one again.
        return (torch.zeros_like(values, dtype=torch.float64) + values).reshape(K, *sizes)

    def exact_number(value: Any) -> Tensor:
        if isinstance(value, Tensor):
            value = (
                value.to(case.dtype).double() if value.numel() > 1 or value.dtype == torch.bfloat16 else value.double()
            )
            return (torch.zeros(K, dtype=torch.float64) + value.flatten()).unsqueeze(1)
        return torch.full((K, 1), float(value), dtype=torch.float64)

    sizes = case.num_samples, C, case.length or 1
    leaves64 = {"x": exact(x, *sizes)} | {name: exact(value, C) for name, value in parameters.items()}
    for name in case.needs:
        leaves64[name].requires_grad_()
    if momentum is not None:
        factor = exact_number(momentum)
    else:
        factor = torch.full((K, 1), 0.0 if counter is None else 1 / 4, dtype=torch.float64)
    all_samples = torch.ones(K, case.num_samples, sizes[2], dtype=torch.bool)
    y64, mean64, var64 = reference(
        leaves64["x"],
        leaves64.get("weight", torch.ones(K, C, dtype=torch.float64)),
        leaves64.get("bias", torch.zeros(K, C, dtype=torch.float64)),
        exact(mean, C),
        exact(var, C),
        case.training,
        factor,
        exact_number(eps),
        all_samples if mask is None else mask.reshape(all_samples.shape),
    )

    leaves = {"x": x} | parameters
    leaves = {name: value.detach().requires_grad_(name in case.needs) for name, value in leaves.items()}
    statistics = (mean, var) if case.statistics else (None, None)
    by_name = {"num_batches_tracked": counter, "mask": mask, "stack_dims": len(stack)}
    given = (leaves["x"], *statistics, leaves.get("weight"), leaves.get("bias"), case.training, momentum, eps)
    with use_kernel(case.kernel):
        if case.training and case.mask == "none" and case.num_samples * sizes[2] == 1:
            with pytest.raises(ValueError, match="more than 1 value per channel"):
                batch_norm(*given, **by_name)
            return
        y = batch_norm(*given, **by_name)
        gradients = (
            torch.autograd.grad(y, [leaves[name] for name in sorted(case.needs)], gradient) if case.needs else ()
        )
    gradients64 = (
        torch.autograd.grad(y64, [leaves64[name] for name in sorted(case.needs)], exact(gradient, *sizes))
        if case.needs
        else ()
    )
    assert y.dtype == case.dtype
    assert y.shape == shape
    assert y.is_contiguous()
    close("y", y, y64, case)
    for name, found, right in zip(sorted(case.needs), gradients, gradients64, strict=True):
        assert found.dtype == leaves[name].dtype
        assert found.shape == leaves[name].shape
        close(f"dL/d{name}", found, right, case)
    if case.statistics:
        close("running_mean", mean, mean64, case)
        close("running_var", var, var64, case)
    if counter is not None:
        assert (counter == 3 + case.training).all()


def close(name: str, found: Tensor, right: Tensor, case: Case) -> None:
    """To the precision of the dtype, relative to the largest number: the rest cancels."""
    assert not found._is_zerotensor()
    found, right = found.detach().double().reshape(right.shape), right.detach()
    scale = max(1.0, float(right.abs().max())) if right.numel() else 1.0
    error = float((found - right).abs().max()) if right.numel() else 0.0
    # Sums over the batch, and what 1 / sqrt(var + eps) makes of a rounded x with an offset.
    bound = PRECISION[case.dtype] * scale * (1 + case.num_samples * (case.length or 1) ** 0.5 / 10)
    assert error <= bound, f"{name} is off by {error:.2g} of {scale:.2g}"


PROFILE: dict[str, Any] = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}


@settings(max_examples=150, **PROFILE)
@given(cases())
def test_batch_norm_with_any_arguments_is_the_formulas_in_float64(case: Case) -> None:
    check(case)


@pytest.mark.slow
@settings(max_examples=6000, **PROFILE | {"derandomize": False})
@given(cases())
def test_batch_norm_with_any_arguments_is_the_formulas_in_float64_many_times(case: Case) -> None:
    check(case)
