"""The CPU kernel: when it runs, and that it agrees with plain torch in every case."""

import ctypes
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from bnlab.batch_norm import BatchNorm1d, batch_norm, use_kernel
from bnlab.batch_norm.arithmetic.arguments import Settings
from bnlab.batch_norm.back_ends import kernel, kernel_by_pointers, kernel_by_tensors, kernel_check, tensors_in_c
from bnlab.batch_norm.back_ends.tensors_in_c import Tensors, pack_tensors
from bnlab.batch_norm.c_library import library
from bnlab.internals import torch_internals

needs_compiler = pytest.mark.skipif(not kernel.is_available(), reason="no C compiler for the CPU kernel")


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_working_compiler_plain_torch_runs(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("BNLAB_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setattr(library, "warned", False)
    monkeypatch.setattr(kernel, "run_of", {})
    monkeypatch.setattr(kernel, "state", {"wanted": True, "loaded": False, "forked": False})
    with caplog.at_level("INFO"):
        y = BatchNorm1d(4)(torch.randn(9, 4, requires_grad=True))
    assert len(y.grad_fn.saved_tensors) == 4  # of `native`: x, weight, the mean and 1 / sqrt(var + eps)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("Batch norm runs as plain torch operations, because kernel.c could not be built: ")
    assert not list(tmp_path.iterdir())


def test_environment_switches_the_kernel_off() -> None:
    program = "from bnlab.batch_norm.back_ends import kernel; print(kernel.is_available())"
    assert run(program, BNLAB_KERNEL="0") == "False"


def test_the_bytes_that_are_packed_are_those_of_the_structure() -> None:
    names = [name for name, *_ in Tensors._fields_]
    packed = pack_tensors(*range(1, len(names) + 1))
    assert len(packed) == ctypes.sizeof(Tensors)
    structure = Tensors.from_buffer_copy(packed)
    assert [getattr(structure, name) for name in names] == [*range(1, len(names) + 1)]


@needs_compiler
@pytest.mark.parametrize("structure", ["problem", "tensors"])
def test_a_kernel_that_expects_a_structure_of_another_size_is_not_used(
    structure: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kernel, "run_of", {})
    monkeypatch.setattr(kernel, "run_tensors", None)
    monkeypatch.setattr(kernel, "state", {"wanted": True, "loaded": False, "forked": False})
    module = kernel_check if structure == "problem" else tensors_in_c
    true_size = kernel_check.size_in
    monkeypatch.setattr(module, "size_in", lambda library, name: true_size(library, name) + 8 * (name == structure))
    assert kernel.is_available() == (structure == "tensors")
    assert not kernel.knows_tensors()
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "Batch norm runs as plain torch operations: the kernel expects a problem of another size."
    ] * (structure == "problem")


@needs_compiler
def test_kernel_works_in_a_forked_child_after_threads_ran() -> None:
    # Compared as bytes: torch's own operations wait for ever in such a child.
    program = """
import os, torch
from bnlab.batch_norm import batch_norm
torch.set_num_threads(3)
x = torch.randn(4000, 64)
before = batch_norm(x, None, None, training=True).numpy().tobytes()
child = os.fork()
if not child:
    os._exit(0 if batch_norm(x, None, None, training=True).numpy().tobytes() == before else 3)
print(os.waitpid(child, 0)[1])
"""
    assert run(program) == "0"


@needs_compiler
@pytest.mark.parametrize("shape", [(9, 5), (4, 5, 7)], ids=str)
def test_kernel_allocates_by_public_torch_where_the_private_way_is_gone(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, g = (torch.randn(shape, dtype=torch.float64) for _ in range(2))
    results = []
    for empty in (torch_internals.empty_strided, torch_internals.public_empty_strided):
        monkeypatch.setattr(kernel_by_tensors, "empty", empty)
        layer, leaf = BatchNorm1d(5, dtype=torch.float64), x.clone().requires_grad_()
        y = layer(leaf)
        assert len(y.grad_fn.saved_tensors) == 3  # of the kernel: x, weight and the statistics in one row
        y.backward(g)
        results.append((y.detach(), leaf.grad, layer.weight.grad, layer.bias.grad, layer.state_dict()))
        assert y.is_contiguous()
        assert all(gradient.is_contiguous() for gradient in results[-1][1:4])
    torch.testing.assert_close(*results, rtol=0, atol=0)


def run(program: str, **environment: str) -> str:
    everything = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    done = subprocess.run([sys.executable, "-c", program], env=everything, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
@needs_compiler
def test_processes_that_start_together_share_one_kernel_and_replace_a_damaged_one(tmp_path: Path) -> None:
    program = """
import torch
from bnlab.batch_norm import batch_norm
from bnlab.batch_norm.back_ends import kernel
x = torch.arange(6000.).sin().view(60, 100)
print(kernel.is_available(), batch_norm(x, None, None, training=True).numpy().tobytes().hex())
"""
    with ThreadPoolExecutor(8) as pool:

        def outcomes() -> set[str]:
            started = [pool.submit(run, program, BNLAB_CACHE=str(tmp_path)) for _ in range(8)]
            return {future.result() for future in started}

        (outcome,) = outcomes()
        assert outcome.startswith("True ")
        (kept,) = tmp_path.iterdir()
        os.truncate(kept, kept.stat().st_size // 2)
        assert outcomes() == {outcome}
        assert list(tmp_path.iterdir()) == [kept]


@needs_compiler
@pytest.mark.parametrize("shape", [(4000, 70), (6, 50, 300)], ids=str)
def test_number_of_threads_changes_no_bit(shape: tuple[int, ...]) -> None:
    before = torch.get_num_threads()
    x, g = torch.randn(shape), torch.randn(shape)
    results = []
    try:
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            leaf = x.clone().requires_grad_()
            y = batch_norm(leaf, None, None, training=True)
            results.append((y.detach(), torch.autograd.grad(y, leaf, g)[0]))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert torch.equal(result[0], results[0][0])
        assert torch.equal(result[1], results[0][1])


SIZES = [
    (2, 1),
    (3, 17),
    (16, 16),
    (61, 100),
    (700, 129),
    (70000, 1),
    (1, 2, 5),
    (3, 2, 1),
    (5, 3, 16),
    (2, 3, 1000),
    (33, 9, 47),
    (9000, 257),
]


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("parameters", ["both", "weight", "bias", "none"])
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_kernel_agrees_with_plain_torch(shape: tuple[int, ...], parameters: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    num_features = shape[1]
    x, g = torch.randn(shape, dtype=torch.float64) + 5, torch.randn(shape, dtype=torch.float64)
    weight = torch.randn(num_features, dtype=torch.float64) if parameters in ("both", "weight") else None
    bias = torch.randn(num_features, dtype=torch.float64) if parameters in ("both", "bias") else None
    results = []
    for by_kernel, as_dtype in ((True, dtype), (False, torch.float64)):
        with use_kernel(by_kernel):
            given = [None if t is None else t.to(dtype).to(as_dtype).requires_grad_() for t in (x, weight, bias)]
            buffers = torch.zeros(num_features, dtype=as_dtype), torch.ones(num_features, dtype=as_dtype)
            y = batch_norm(given[0], *buffers, *given[1:], True, 0.3, eps=1e-3)
            leaves = [tensor for tensor in given if tensor is not None]
            gradients = torch.autograd.grad(y, leaves, g.to(dtype).to(as_dtype))
            results.append([t.detach().double() for t in (y, *gradients, *buffers)])
    precision = 4e-7 if dtype == torch.float32 else 1e-14
    for found, exact in zip(*results, strict=True):
        scale = max(float(exact.abs().max()), 1.0)
        assert (found - exact).abs().max() <= precision * scale * 3


@needs_compiler
def test_kernel_is_chosen_exactly_where_it_applies() -> None:
    x, one = torch.randn(6, 3), torch.ones(3)

    def takes(x: torch.Tensor, weight: torch.Tensor | None = None, stack_dims: int = 0) -> bool:
        return kernel_by_pointers.takes(x, weight, None, Settings(None, None, None, 0.1, 1e-5, None, stack_dims))

    assert takes(x)
    assert takes(x.t())  # made contiguous
    assert takes(x.double(), one.double())
    assert takes(torch.nn.Parameter(x), torch.nn.Parameter(one))
    assert takes(torch.randn(2, 6, 3), torch.ones(2, 3), stack_dims=1)
    for refused in (
        (x.bfloat16(),),
        (x.to("meta"),),
        (x[:1],),
        (x[:0],),
        (x, one.double()),
        (x, torch.ones(4)),
        (x, torch.ones(6)[::2]),
        (torch.randn(2, 6, 3), torch.ones(3), 1),
        (x.as_subclass(Marked),),
    ):
        assert not takes(*refused), refused
    with use_kernel(False):
        assert not takes(x)
    assert torch_internals.is_eager()


class Marked(torch.Tensor):
    pass


@needs_compiler
def test_gradients_of_a_batch_of_gradients_do_not_reach_the_kernel() -> None:
    x = torch.randn(6, 3, requires_grad=True)
    y = BatchNorm1d(3)(x)
    gs = torch.randn(4, 6, 3)
    (batched,) = torch.autograd.grad(y, x, gs, is_grads_batched=True, retain_graph=True)
    for g, expected in zip(gs, batched, strict=True):
        torch.testing.assert_close(torch.autograd.grad(y, x, g, retain_graph=True)[0], expected)
