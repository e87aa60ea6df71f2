"""How C knows torch's tensors: by torch's stable C interface and what a tensor consists of.

To ask a tensor from Python for its dtype, strides, pointer and so on takes longer than a small batch norm
(bnlab/bench/records/batch_norm.md). `tensors.c` asks the same questions in C. What it relies on is tried out before it
is used, so that another torch is served by the questions in Python: the functions' names; that `c_tensor` gives a C++
tensor, which torch itself says; and that C sees of tensors of all kinds what Python sees. To be deleted when torch
calls Functions as fast.
"""

import ctypes
import logging
import os
import struct
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bnlab.batch_norm.back_ends.kernel_check import FORWARD, size_in
from bnlab.internals.torch_internals import c_tensor, c_tensor_is_reliable, efficient_zeros, negated_view

__all__ = ["Tensors", "connect", "pack_tensors"]

log = logging.getLogger(__name__)


class Tensors(ctypes.Structure):
    """`Tensors` of tensors.c: what `c_tensor` says of each tensor, or 0 for none."""

    _fields_ = (
        ("direction", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("x", "grad_y", "out", "weight", "bias", "grad_weight", "grad_bias")),
        *((name, ctypes.c_void_p) for name in ("statistics", "running_mean", "running_var", "num_batches_tracked")),
        ("threads", ctypes.c_int64),
        *((name, ctypes.c_double) for name in ("eps", "momentum")),
    )


# The bytes of a `Tensors`, from its fields in their order, without making one, which ctypes is slow at.
pack_tensors = struct.Struct("@q11Pq2d").pack


# As they stand in `ask` and `code` of tensors.c.
STABLE = "dtype", "device_type", "layout", "dim", "sizes", "strides", "storage_offset", "storage_size", "data_ptr"
FUNCTIONS = (
    *(f"aoti_torch_get_{what}" for what in STABLE),
    "_ZN2at6native6is_negERKNS_6TensorE",  # at::native::is_neg(at::Tensor const&)
    "_ZN2at6native14_is_zerotensorERKNS_6TensorE",
    "_ZN2at6native12is_inferenceERKNS_6TensorE",
)
CODES = ("dtype_float32", "dtype_float64", "dtype_int64", "device_type_cpu", "layout_strided")


Run = Callable[[bytes], int]


def connect(library: Any) -> Run | None:
    """`run_tensors` of the compiled kernel, or None if it cannot know this torch's tensors."""
    try:
        torch_in_c = ctypes.CDLL(os.path.join(os.path.dirname(torch.__file__), "lib", f"libtorch_cpu{suffix()}"))
        functions = (ctypes.c_void_p * len(FUNCTIONS))(
            *(ctypes.cast(getattr(torch_in_c, name), ctypes.c_void_p).value for name in FUNCTIONS)
        )
        codes = (ctypes.c_int32 * len(CODES))(*(getattr(torch_in_c, f"aoti_torch_{name}")() for name in CODES))
        if not c_tensor_is_reliable(torch.zeros(1)) or size_in(library, "tensors") != ctypes.sizeof(Tensors):
            return None
        library.configure_tensors(functions, codes)
        run: Run = library.run_tensors
        run.argtypes, run.restype = [ctypes.c_char_p], ctypes.c_int32  # type: ignore[attr-defined]
        return run if agrees_with_python(run) else None
    except (AttributeError, OSError, RuntimeError, TypeError) as reason:
        log.info("The batch norm kernel is told in Python what torch's tensors are: %s", reason)
        return None


def suffix() -> str:
    return ".dylib" if os.uname().sysname == "Darwin" else ".so"


def without_memory(tensor: Tensor) -> Tensor:
    tensor.untyped_storage().resize_(0)
    return tensor


def of_inference_mode(tensor: Tensor) -> Tensor:
    with torch.inference_mode():
        return tensor.clone()


def agrees_with_python(run: Run) -> bool:
    """Whether C reads what is in memory, takes it for what it is, and refuses all else."""
    if negated_view is None or efficient_zeros is None:
        return False
    for dtype in (torch.float32, torch.float64):
        x, counter = torch.tensor([[1, 2], [3, 6], [5, 10]], dtype=dtype), torch.tensor(3)
        y, statistics, zero = torch.empty_like(x), x.new_empty(4), torch.zeros(1, dtype=dtype)

        def takes(x: Tensor, statistics: Tensor, counter: Tensor, y: Tensor = y) -> bool:
            given = {"x": x, "out": y, "statistics": statistics, "num_batches_tracked": counter}
            addresses = {name: c_tensor(tensor) for name, tensor in given.items()}
            return bool(run(bytes(Tensors(direction=FORWARD, **addresses, threads=1, eps=1e-5, momentum=0.1))))

        refused = (
            (negated_view(x), statistics, counter),
            (efficient_zeros(x.shape, dtype=dtype), statistics, counter),
            (efficient_zeros((5, 2), dtype=dtype)[2:], statistics, counter),
            (without_memory(x.clone()), statistics, counter),
            (without_memory(x.repeat(2, 1)[3:]), statistics, counter),
            (of_inference_mode(x), statistics, counter),
            (x, statistics, of_inference_mode(counter)),
            (x.to(torch.bfloat16), statistics, counter),
            (x.to("meta"), statistics, counter),
            (x.to_sparse(), statistics, counter),
            (x.t(), statistics, counter),
            (x[:1], statistics, counter),
            (x[:0], statistics, counter),
            (x[0], statistics, counter),
            (x, statistics[:3], counter),
            (x, x.new_empty(8)[::2], counter),
            (x, zero.expand(4), counter),
            (x, statistics, counter.int()),
            (x, statistics, counter[None]),
            (x, statistics, negated_view(counter)),
            (x, statistics, counter, y[:2]),
        )
        if any(takes(*each) for each in refused) or counter.item() != 3:
            return False
        if not takes(x, statistics, counter) or counter.item() != 4 or statistics[:2].tolist() != [3, 6]:
            return False
    return True
