"""Load the functions of `step.c`, which take the structures of `step_check.py`."""

import ctypes
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from bnlab.batch_norm import c_library
from bnlab.stacked.compiled import step_check
from bnlab.stacked.compiled.step_check import NUMBER, POINTER, Elsewhere, Kind, LayerInC, LossInC, Of, wrong_size

__all__ = ["Elsewhere", "Functions", "Kind", "LayerInC", "LossInC", "Of", "UpdateInC", "functions_of", "of"]

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("step.c")
_NAMES = {torch.float32: ("float", "sgemm_", "f"), torch.float64: ("double", "dgemm_", "d")}


class UpdateInC(step_check.UpdateInC):
    """An update that owns the numbers that it points to."""

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
        """Make the first update of K networks, (K, P), with their hyperparameters, (K,) each.

        All networks write their gradients to the first network's row, one after another.
        """
        update = cls(of(rows), of(gradients), of(velocity), num_pieces=len(sizes), nesterov=nesterov, is_first=True)
        update.gradients.stride = 0
        kept: list[Any] = [(NUMBER * len(sizes))(*sizes)]
        update.sizes = ctypes.addressof(kept[0])
        for name in ("lr", "momentum", "dampening", "weight_decay"):
            assert len(numbers[name]) == len(rows)
            kept.append((ctypes.c_double * len(rows))(*numbers[name]))
            setattr(update, name, ctypes.addressof(kept[-1]))
        update.kept = kept
        return update


class Functions(NamedTuple):
    """The functions of step.c for one dtype, the functions that they call, and the number of lanes of a vector."""

    step: Any
    linear: Any
    loss: Any
    descent: Any
    elsewhere: Elsewhere
    lanes: int


# The result and the arguments of each function.
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "step": (NUMBER, [POINTER, NUMBER, POINTER, POINTER, NUMBER, NUMBER, NUMBER, POINTER, POINTER]),
    "linear": (None, [POINTER, NUMBER, POINTER, POINTER]),
    "loss": (None, [POINTER, POINTER, NUMBER, POINTER, POINTER]),
    "descent": (None, [POINTER]),
}


@cache
def _library() -> ctypes.CDLL | None:
    library = c_library.load(
        SOURCE,
        SOURCE.with_name("step_check.py"),
        [
            "bytes_of_a_vector",
            "size_of_layer",
            *(f"{part}_{name}" for part in _SIGNATURES for name, *_ in _NAMES.values()),
        ],
        otherwise="Stacks are trained operation by operation",
    )
    if library is not None and (problem := wrong_size(library)):
        log.warning("Stacks are trained operation by operation: %s.", problem)
        return None
    return library


@cache
def functions_of(dtype: torch.dtype) -> Functions | None:
    """Return the functions of a dtype, or None if one of them is missing."""
    if dtype not in _NAMES:
        return None
    library = _library()
    if library is None:
        return None
    name, gemm, letter = _NAMES[dtype]
    try:
        torch_library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        lanes = NUMBER.in_dll(library, "bytes_of_a_vector").value // dtype.itemsize
        symbols = gemm, f"Sleef_exp{letter}{lanes}_u10", f"Sleef_log{letter}{lanes}_u10"
        pointers = [ctypes.cast(getattr(torch_library, symbol), POINTER) for symbol in symbols]
    except (OSError, AttributeError) as error:
        log.info("Stacks are trained operation by operation, because torch lacks what their step calls: %s", error)
        return None
    functions = [getattr(library, f"{part}_{name}") for part in _SIGNATURES]
    for function, (result, arguments) in zip(functions, _SIGNATURES.values(), strict=True):
        function.restype, function.argtypes = result, arguments
    return Functions(**dict(zip(_SIGNATURES, functions, strict=True)), elsewhere=Elsewhere(*pointers), lanes=lanes)


def of(tensor: Tensor | None) -> Of:
    """Describe (K, ...) by its start and its stride; each network's part is contiguous."""
    if tensor is None:
        return Of(None, 0)
    assert tensor[0].is_contiguous()
    return Of(tensor.data_ptr(), tensor.stride(0) * tensor.itemsize)
