"""The CPU kernel, `kernel.c`: compiled once a machine with the C compiler at hand, kept on disk, called through ctypes.

Where no compiler is found the formulas in plain torch do the same. `BNLAB_KERNEL=0` in the environment, or
`with use_kernel(False):`, asks for that. Where the compiled file is kept is said in `c_library/folders.py`.

What else was tried is ATen's operations, in place, a cache block or a part of the products at a time, Numba and
Inductor: times and machines stand in `bnlab/bench/records/batch_norm.md`.

What is left on small shapes is Python and the autograd engine. On large ones the sums wait for memory unless the next
rows are fetched ahead, and results are written past the cache from where it could not hold them. In ATen, blocking for
the cache pays on one thread, but with several each operation starts all of them, and waits for the core that another
process has. torch's own batch norm of x less its rounded mean is what `centered.py` uses, for few rows a thread: it
adds up rows in fp32. On x itself it would lose what torch's layer loses. dL/dx written over what was kept saves the
faults of fresh pages.
"""

import ctypes
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from bnlab.batch_norm import c_library, tensors_in_c
from bnlab.batch_norm.arguments import Settings, one_nth
from bnlab.batch_norm.kernel_check import BACKWARD, FORWARD, Problem, is_laid_out_in
from bnlab.batch_norm.plain import PLAIN, are_in_memory
from bnlab.torch_internals import c_tensor, is_batched
from bnlab.torch_internals import empty_strided as empty

__all__ = [
    "UnreadableError",
    "backward",
    "backward_of_tensors",
    "forward",
    "forward_of_tensors",
    "is_available",
    "knows_tensors",
    "use_kernel",
]

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("kernel.c")

ONE = torch.tensor(1, device="cpu")  # of a plain number, torch makes a tensor in every operation

ONE_BY_ONE = (1,)  # the strides of a row

pack_tensors = tensors_in_c.pack_tensors

Run = Callable[[Problem], None]
run_of: dict[torch.dtype, Run] = {}
state = {"wanted": os.environ.get("BNLAB_KERNEL", "1") not in ("0", "off", "false"), "loaded": False, "forked": False}
run_tensors: Callable[[bytes], int] | None = None
loading = threading.Lock()


@contextmanager
def use_kernel(wanted: bool) -> Iterator[None]:
    """Within the block, run the CPU kernel where it applies (True), or plain torch operations everywhere (False)."""
    before, state["wanted"] = state["wanted"], wanted
    try:
        yield
    finally:
        state["wanted"] = before


def is_available() -> bool:
    """Whether the kernel is wanted and could be compiled and loaded; the first call does both."""
    if state["wanted"] and not state["loaded"]:
        with loading:  # other threads wait: without it they would round differently
            if not state["loaded"]:
                load()
                state["loaded"] = True
    return state["wanted"] and bool(run_of)


def knows_tensors() -> bool:
    """Whether the kernel is there, and can check for itself what a tensor is."""
    return bool(state["wanted"] and (state["loaded"] or is_available()) and run_tensors is not None)


def load() -> None:
    global run_tensors
    symbols = {torch.float32: "run_float", torch.float64: "run_double"}
    library = c_library.load(
        SOURCE,
        SOURCE.with_name("kernel_check.py"),
        ["configure", "configure_tensors", "run_tensors", "size_of_problem", "size_of_tensors", *symbols.values()],
        otherwise="Batch norm runs as plain torch operations",
    )
    if library is None:
        return
    if not is_laid_out_in(library):
        log.warning("Batch norm runs as plain torch operations: the kernel expects a problem of another size.")
        return
    try:
        # torch has loaded its OpenMP for the whole process; a second one would fight it for the cores.
        openmp = ctypes.CDLL(None)
        library.configure(openmp.GOMP_parallel, openmp.omp_get_thread_num, openmp.omp_get_num_threads)
    except (AttributeError, OSError, TypeError):
        log.info("The batch norm kernel runs on one thread: torch's OpenMP has no GOMP_parallel.")
    for dtype, name in symbols.items():
        run = getattr(library, name)
        run.argtypes, run.restype = [ctypes.POINTER(Problem)], None
        run_of[dtype] = run
    run_tensors = tensors_in_c.connect(library)
    if hasattr(os, "register_at_fork"):
        # A forked child has none of OpenMP's threads and would wait for them for ever.
        os.register_at_fork(after_in_child=lambda: state.update(forked=True))


def sizes(x: Tensor, stack_dims: int) -> tuple[int, int, int, int]:
    """K, N, C, L of x (*stack, N, C) or (*stack, N, C, L)."""
    shape = x.shape
    if len(shape) == 2:
        return 1, shape[0], shape[1], 1
    return shape[:stack_dims].numel(), shape[stack_dims], shape[stack_dims + 1], shape[stack_dims + 2 :].numel()


def pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def num_threads(x: Tensor) -> int:
    """How many threads to use: asking costs time, and for little work the kernel would not use them."""
    return 1 if x.numel() <= 32768 or state["forked"] else torch.get_num_threads()


def each_network(value: Tensor | float, x: Tensor, num_networks: int) -> tuple[Tensor | None, int | None, float]:
    """A number a network as the tensor that owns them and a pointer, a number as itself."""
    if not isinstance(value, Tensor):
        return None, None, value
    if not value.dim():
        return None, None, float(value)
    if value.numel() != num_networks:
        raise ValueError(f"Each of {num_networks} networks must have a number, but there are {tuple(value.shape)}.")
    if not are_in_memory((value,), x.dtype) or not value.is_contiguous():
        value = torch.empty(value.shape, dtype=x.dtype, device="cpu").copy_(value.detach())
    return value, value.data_ptr(), 0.0


class UnreadableError(Exception):
    """A tensor is not what the kernel reads; nothing has been computed."""


def in_one_piece(shape: torch.Size) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """The size and the strides of (N, C) or (N, C, L), contiguous; and C."""
    if len(shape) == 2:
        num_samples, num_features = shape
        return (num_samples, num_features), (num_features, 1), num_features
    num_samples, num_features, length = shape
    return (num_samples, num_features, length), (num_features * length, length, 1), num_features


def forward_of_tensors(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, settings: Settings
) -> tuple[Tensor, Tensor]:
    """As `forward`, of tensors that C looks at, for one network: momentum and eps are numbers, stack_dims is 0.

    Types are to be plain, because C does not see them, and x of float32 or float64 on the CPU, because others come here
    in vain often.

    Raises:
        UnreadableError: so `forward` may be tried, and batch norm in plain torch.
    """
    running_mean, running_var, num_batches_tracked, momentum, eps, _, _ = settings
    size, strides, num_features = in_one_piece(x.shape)
    dtype = x.dtype
    y = empty(size, strides, dtype)
    statistics = empty((2 * num_features,), ONE_BY_ONE, dtype)
    if not run_tensors(  # type: ignore[misc]
        pack_tensors(
            direction=FORWARD,
            x=c_tensor(x),
            out=c_tensor(y),
            weight=0 if weight is None else c_tensor(weight),
            bias=0 if bias is None else c_tensor(bias),
            statistics=c_tensor(statistics),
            running_mean=0 if running_mean is None else c_tensor(running_mean),
            running_var=0 if running_var is None else c_tensor(running_var),
            num_batches_tracked=0 if num_batches_tracked is None else c_tensor(num_batches_tracked),
            threads=num_threads(x),
            eps=eps,  # type: ignore[arg-type]
            momentum=momentum,  # type: ignore[arg-type]
        )
    ):
        if x.is_contiguous():
            raise UnreadableError
        return forward_of_tensors(x.contiguous(), weight, bias, settings)
    return y, statistics


def backward_of_tensors(
    x: Tensor,
    grad_y: Tensor,
    weight: Tensor | None,
    statistics: Tensor,
    needs_x: bool,
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None] | None:
    """dL/dx, dL/dweight and dL/dbias, those that are needed, for one network; None if C cannot read all this."""
    if (
        type(grad_y) not in PLAIN
        or is_batched(grad_y)
        or type(x) not in PLAIN
        or not 2 <= x.dim() <= 3
        or type(statistics) not in PLAIN
        or (weight is not None and type(weight) not in PLAIN)
    ):
        return None
    size, strides, num_features = in_one_piece(x.shape)
    dtype = x.dtype
    grad_x = empty(size, strides, dtype) if needs_x else None
    grad_weight = empty((num_features,), ONE_BY_ONE, dtype) if needs_weight and weight is not None else None
    grad_bias = empty((num_features,), ONE_BY_ONE, dtype) if needs_bias else None
    if run_tensors(  # type: ignore[misc]
        pack_tensors(
            direction=BACKWARD,
            x=c_tensor(x),
            grad_y=c_tensor(grad_y),
            out=0 if grad_x is None else c_tensor(grad_x),
            weight=0 if weight is None else c_tensor(weight),
            grad_weight=0 if grad_weight is None else c_tensor(grad_weight),
            grad_bias=0 if grad_bias is None else c_tensor(grad_bias),
            statistics=c_tensor(statistics),
            threads=num_threads(x),
        )
    ):
        return grad_x, grad_weight, grad_bias
    if x.is_contiguous() and grad_y.is_contiguous():
        return None
    x, grad_y = x.contiguous(), grad_y.contiguous()
    return backward_of_tensors(x, grad_y, weight, statistics, needs_x, needs_weight, needs_bias)


def forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    settings: Settings,
) -> tuple[Tensor, Tensor]:
    """y, and in one row the (2, *stack, C) rounded means and 1 / sqrt(var + eps); running statistics are updated.

    Of all tensors `are_in_memory` is true, they are of one dtype, float32 or float64, fit x, and all but x are
    contiguous; the counter is anything that can be counted with. `settings` are running_mean, running_var,
    num_batches_tracked, momentum, eps, mask (None) and stack_dims, as `batch_norm`'s.
    """
    running_mean, running_var, num_batches_tracked, momentum, eps, _, stack_dims = settings
    if not x.is_contiguous():
        x = x.contiguous()
    y = torch.empty_like(x)
    num_networks, num_samples, num_features, length = sizes(x, stack_dims)
    statistics = x.new_empty(2 * num_networks * num_features)  # of one dimension, which is faster
    mean = statistics.data_ptr()
    if num_batches_tracked is not None:
        num_batches_tracked.add_(ONE)  # here, where it may be of any dtype, shape and device
    if momentum is None:
        momentum = 0.0 if num_batches_tracked is None else one_nth(num_batches_tracked, x.shape[:stack_dims])
    momentum_pointer, eps_pointer, momentum_number, eps_number = None, None, momentum, eps
    if type(eps) is not float:
        _eps, eps_pointer, eps_number = each_network(eps, x, num_networks)
    if type(momentum) is not float:
        _momentum, momentum_pointer, momentum_number = each_network(momentum, x, num_networks)
    run_of[x.dtype](
        Problem(
            direction=FORWARD,
            x=x.data_ptr(),
            out=y.data_ptr(),
            weight=pointer(weight),
            bias=pointer(bias),
            mean=mean,
            inv_std=mean + num_networks * num_features * x.itemsize,
            running_mean=pointer(running_mean),
            running_var=pointer(running_var),
            eps=eps_pointer,
            momentum=momentum_pointer,
            K=num_networks,
            N=num_samples,
            C=num_features,
            L=length,
            threads=num_threads(x),
            eps_number=eps_number,
            momentum_number=momentum_number,
        )
    )
    return y, statistics


def takes_back(x: Tensor, grad_y: Tensor, weight: Tensor | None, statistics: Tensor, stack_dims: int) -> bool:
    """Whether `backward` can read what autograd hands over.

    The gradient may be anything. What was saved has been seen by forward, but a leaf may have been given other data
    since (as `layer.double()` does), and a hook on saved tensors may return what it likes.
    """
    dtype, shape = statistics.dtype, x.shape
    size = statistics.numel() // 2
    return (
        grad_y.shape == shape
        and are_in_memory((x, grad_y, weight, statistics), dtype)
        and statistics.is_contiguous()
        and size == shape[:stack_dims].numel() * shape[stack_dims + 1]
        and (weight is None or (weight.numel() == size and weight.is_contiguous()))
    )


def backward(
    x: Tensor,
    grad_y: Tensor,
    weight: Tensor | None,
    statistics: Tensor,
    stack_dims: int,
    needs_x: bool,
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """dL/dx, dL/dweight and dL/dbias, those that are needed, from what `takes_back`."""
    if not x.is_contiguous():
        x = x.contiguous()
    if not grad_y.is_contiguous():
        grad_y = grad_y.contiguous()
    num_networks, num_samples, num_features, length = sizes(x, stack_dims)
    mean = statistics.data_ptr()
    grad_x = torch.empty_like(x) if needs_x else None
    grad_weight = torch.empty_like(weight) if needs_weight and weight is not None else None
    grad_bias = None
    if needs_bias and weight is not None:
        grad_bias = torch.empty_like(weight)
    elif needs_bias:
        grad_bias = x.new_empty(x.shape[:stack_dims] + x.shape[stack_dims + 1 : stack_dims + 2])
    run_of[x.dtype](
        Problem(
            direction=BACKWARD,
            x=x.data_ptr(),
            grad_y=grad_y.data_ptr(),
            out=pointer(grad_x),
            weight=pointer(weight),
            grad_weight=pointer(grad_weight),
            grad_bias=pointer(grad_bias),
            mean=mean,
            inv_std=mean + num_networks * num_features * x.itemsize,
            K=num_networks,
            N=num_samples,
            C=num_features,
            L=length,
            threads=num_threads(x),
        )
    )
    return grad_x, grad_weight, grad_bias
