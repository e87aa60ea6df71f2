"""The functions of `step.c`, and the structures that they take."""

import ctypes
import logging
from collections.abc import Mapping, Sequence
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from bnlab.batch_norm import c_library

__all__ = ["Elsewhere", "Functions", "Kind", "LayerInC", "LossInC", "Of", "UpdateInC", "functions_of", "of"]

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("step.c")
_NAMES = {torch.float32: ("float", "sgemm_", "f"), torch.float64: ("double", "dgemm_", "d")}


_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_int64


class Of(ctypes.Structure):
    """A pointer for the first network, and the bytes to the next."""

    _fields_ = (("start", _POINTER), ("stride", _NUMBER))


class Kind(IntEnum):
    LINEAR = 0
    BATCH_NORM = 1
    RELU = 2
    NORMALIZE = 3


class LayerInC(ctypes.Structure):
    _fields_ = (
        *((name, _NUMBER) for name in ("kind", "num_in", "num_out", "needs_x")),
        *((name, _NUMBER) for name in ("forward_here", "weight_here", "x_here")),
        *((name, Of) for name in ("x", "y", "grad_x", "grad_y", "weight", "bias", "grad_weight", "grad_bias")),
        *((name, Of) for name in ("mean", "scale", "shift", "forward", "backward")),
    )


class LossInC(ctypes.Structure):
    _fields_ = (("classes", Of), ("losses", _POINTER), ("hits", _POINTER))


class UpdateInC(ctypes.Structure):
    _fields_ = (
        *((name, Of) for name in ("rows", "gradients", "velocity")),
        ("sizes", _POINTER),
        *((name, _NUMBER) for name in ("num_pieces", "nesterov", "is_first")),
        *((name, _POINTER) for name in ("lr", "momentum", "dampening", "weight_decay")),
    )

    @classmethod
    def over(
        cls,
        rows: Tensor,
        gradients: Tensor,
        velocity: Tensor | None,
        sizes: Sequence[int],
        numbers: Mapping[str, Sequence[float]],
        *,
        nesterov: bool,
    ) -> Self:
        """Of K networks, (K, P), and their hyperparameters, each (K,); the first update to be done.

        The gradients are those in the first network's place, where each has its own when its turn comes.
        """
        update = cls(of(rows), of(gradients), of(velocity), num_pieces=len(sizes), nesterov=nesterov, is_first=True)
        update.gradients.stride = 0
        kept: list[Any] = [(_NUMBER * len(sizes))(*sizes)]
        update.sizes = ctypes.addressof(kept[0])
        for name in ("lr", "momentum", "dampening", "weight_decay"):
            assert len(numbers[name]) == len(rows)
            kept.append((ctypes.c_double * len(rows))(*numbers[name]))
            setattr(update, name, ctypes.addressof(kept[-1]))
        update.kept = kept
        return update


class Elsewhere(ctypes.Structure):
    """The `Functions` of step.c."""

    _fields_ = tuple((name, _POINTER) for name in ("gemm", "exponential", "logarithm", "batch_norm"))


class Functions(NamedTuple):
    """Of one dtype: those of step.c, what they call, and how many numbers a vector has."""

    step: Any
    linear: Any
    loss: Any
    descent: Any
    elsewhere: Elsewhere
    lanes: int


# The result and the arguments of each.
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "step": (_NUMBER, [_POINTER, _NUMBER, _POINTER, _POINTER, _NUMBER, _NUMBER, _NUMBER, _POINTER, _POINTER]),
    "linear": (None, [_POINTER, _NUMBER, _POINTER, _POINTER]),
    "loss": (None, [_POINTER, _POINTER, _NUMBER, _POINTER, _POINTER]),
    "descent": (None, [_POINTER]),
}


@cache
def _library() -> ctypes.CDLL | None:
    return c_library.load(
        SOURCE,
        SOURCE.with_name("step_check.py"),
        ["bytes_of_a_vector", *(f"{part}_{name}" for part in _SIGNATURES for name, *_ in _NAMES.values())],
        otherwise="Stacks are trained operation by operation",
    )


@cache
def functions_of(dtype: torch.dtype) -> Functions | None:
    """None where one of them is missing."""
    if dtype not in _NAMES:
        return None
    library = _library()
    if library is None:
        return None
    name, gemm, letter = _NAMES[dtype]
    try:
        torch_library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        lanes = _NUMBER.in_dll(library, "bytes_of_a_vector").value // dtype.itemsize
        symbols = gemm, f"Sleef_exp{letter}{lanes}_u10", f"Sleef_log{letter}{lanes}_u10"
        pointers = [ctypes.cast(getattr(torch_library, symbol), _POINTER) for symbol in symbols]
    except (OSError, AttributeError) as error:
        log.info("Stacks are trained operation by operation, because torch lacks what their step calls: %s", error)
        return None
    functions = [getattr(library, f"{part}_{name}") for part in _SIGNATURES]
    for function, (result, arguments) in zip(functions, _SIGNATURES.values(), strict=True):
        function.restype, function.argtypes = result, arguments
    return Functions(**dict(zip(_SIGNATURES, functions, strict=True)), elsewhere=Elsewhere(*pointers), lanes=lanes)


def of(tensor: Tensor | None) -> Of:
    """Of (K, ...): where it starts, and its stride; each network's part is in one piece."""
    if tensor is None:
        return Of(None, 0)
    assert tensor[0].is_contiguous()
    return Of(tensor.data_ptr(), tensor.stride(0) * tensor.itemsize)
